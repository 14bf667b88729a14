//! vipshield's own monitor when more happens than its buffer holds.

use std::{fmt::Write as _, fs};

use libtest_mimic::Failed;
use tokio::time::timeout;
use vipshield::{
    engine::Event,
    net::{Monitor, Read},
};

use super::{
    carry::ip,
    check,
    namespace::{PATIENCE, Stage},
};

/// What is lost is noticed, and what happens afterwards is seen.
pub(crate) fn lost_events() -> Result<(), Failed> {
    let stage = Stage::new()?;
    let mut monitor = stage.block_on(async { Monitor::open(stage.handle()) })?;
    let mut storm = String::new();
    for _ in 0..30_000 {
        storm
            .push_str("address add 198.51.100.7/32 dev nic\naddress del 198.51.100.7/32 dev nic\n");
    }
    let batch = std::env::temp_dir().join(format!("vipshield-storm-{}", std::process::id()));
    fs::write(&batch, storm)?;
    let mut arguments = String::new();
    write!(arguments, "-batch {}", batch.display())?;
    let stormed = ip(&arguments);
    fs::remove_file(&batch)?;
    stormed?;

    let mut heard = 0;
    let mut at_a_time = 0;
    let mut read = async |sink: &mut dyn FnMut(Event)| timeout(PATIENCE, monitor.read(sink)).await;
    let mut reads = Vec::new();
    while reads.last() != Some(&Read::Lost) {
        let before = heard;
        reads.push(stage.block_on(read(&mut |_| heard += 1))??);
        at_a_time = at_a_time.max(heard - before);
        check(reads.len() < 1000, format!("nothing is lost, of {heard} events"))?;
    }
    check(reads.contains(&Read::Losing), format!("the buffer is read {at_a_time} at a time"))?;
    // Each message is an event, and what somebody asked for.
    check(at_a_time <= 512, format!("{at_a_time} events at a time"))?;
    // Some hundreds if it had the usual size; what a message takes of it differs from kernel to kernel (Linux 6.12:
    // 4,369).
    check(heard > 2_000, format!("the buffer holds {heard} events"))?;
    stage.add_address("nic", "192.0.2.11/24")?;
    let mut last = Vec::new();
    let complete = stage.block_on(read(&mut |event| last.push(event)))??;
    check(complete == Read::Complete, "more is lost")?;
    let address = |event: &Event| matches!(event, Event::Address { address, .. } if address.to_string() == "192.0.2.11/24");
    check(last.iter().any(address), format!("the address is not seen, but {last:?}"))
}
