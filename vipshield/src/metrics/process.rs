//! What this process uses, under the names that every exporter has.

use std::{fs, sync::atomic::AtomicU64};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// The kernel counts a process's time in these for whoever reads it (`USER_HZ`, `proc_pid_stat(5)`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Registers what /proc says.
pub(super) fn register(registry: &mut Registry) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the executable is in parentheses, and may have any in it.
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .map(|rest| rest.split_whitespace().map(|it| it.parse().unwrap_or(0.0)).collect())
        .unwrap_or_default();
    // `proc_pid_stat(5)` counts from 1, and the third is the first behind the name.
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0.0);
    let seconds = Counter::<f64, AtomicU64>::default();
    seconds.inc_by((field(14) + field(15)) / TICKS_PER_SECOND);
    registry.register("process_cpu_seconds", "CPU time of vipshield", seconds);
    let gauge = |value: f64| {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        gauge
    };
    for (name, help, line) in [
        ("process_resident_memory_bytes", "Resident memory", "VmRSS:"),
        ("process_virtual_memory_bytes", "Virtual memory", "VmSize:"),
    ] {
        registry.register(name, help, gauge(memory(line)));
    }
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    registry.register("process_open_fds", "Open descriptors", gauge(open as f64));
    let started = booted() + field(22) / TICKS_PER_SECOND;
    registry.register("process_start_time_seconds", "When it was started", gauge(started));
}

/// What a line of `proc_pid_status(5)` says of memory, in bytes.
fn memory(line: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let said = status.lines().find_map(|it| it.strip_prefix(line)?.trim().strip_suffix(" kB"));
    said.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}

/// When the kernel began to count, in seconds of Unix time.
fn booted() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let found = stat.lines().find_map(|line| line.strip_prefix("btime "));
    found.and_then(|it| it.trim().parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_descriptors_and_was_started_after_the_machine() {
        let mut registry = Registry::default();
        register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0, "{text}");
        assert!(value("process_open_fds") >= 3.0, "{text}");
        assert!(value("process_start_time_seconds") >= booted(), "{text}");
        assert!(value("process_cpu_seconds_total") >= 0.0, "{text}");
    }
}
