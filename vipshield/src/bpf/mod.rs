//! The eBPF programs: loading them, and the maps through which they are told and tell.

use std::{
    collections::BTreeSet,
    fs::File,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd,
};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::RawTracePoint,
    util::nr_cpus,
};
use tokio::io::unix::AsyncFd;
use vipshield_common::{
    constants,
    counters::Counter,
    guard::{
        AddressKey, GuardReport, GuardedSocket, Held, HeldAddress, IFNAMSIZ, IfName, NicPolicy,
        rules::{Entry, RULES, TABLE},
        withhold as hides,
    },
    intent::IntentReport,
    maps, programs,
    shunt::Devices,
    tasks::{Credentials, TASK_COMM_LEN, TaskEvent},
    watch::FrameReport,
};

use self::{
    classifiers::Classifiers,
    filters::{Filters, Kind},
    heartbeat::Heartbeat,
    last_words::LastWords,
    opening::Openings,
    own_rules::OwnRules,
    sentry::PortSentries,
    shunt::Shunts,
    watch::Watches,
};
pub use self::{
    classifiers::sweep_classifiers,
    error::{BpfError, Lack},
    heartbeat::Pulse,
    pins::{BPFFS, Pins},
    placer::{Placed, Placings, Ticket},
    probe::{has_tcx, tells_types},
};
use crate::{
    causes::causes,
    engine::{Answers, Event, Heard, LetPass, Opening, Shunt, Withheld},
    net::OWN,
    watch::watch,
};

mod btf;
mod classifiers;
#[cfg(test)]
mod comparisons;
mod decode;
mod error;
mod filters;
mod heartbeat;
mod last_words;
mod memlock;
mod opening;
mod own_rules;
mod pins;
mod placer;
mod probe;
mod sentry;
mod shunt;
mod watch;

/// The object with all programs, compiled by the build script.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vipshield-programs"));

/// Records of a ring that are handed over at a time: in a storm other things are due as well.
const BATCH: usize = 256;
/// The same where what follows must not be decided without them.
const ALL_AT_ONCE: usize = 16 * BATCH;

/// Programs and maps. Dropping it detaches the tracepoints; what is on daemons' sockets passes everything
/// from then on.
pub struct Programs {
    ebpf: Ebpf,
    filters: Filters,
    /// None once it is [kept](Self::keep_heartbeat).
    heartbeat: Option<Heartbeat>,
    nics: HashMap<MapData, u32, NicPolicy>,
    names: HashMap<MapData, IfName, u32>,
    link_held: HashMap<MapData, u32, u32>,
    epochs: HashMap<MapData, u32, u32>,
    /// Addresses of which it was withheld that they left.
    held: HashMap<MapData, HeldAddress, Held>,
    command_ports: HashMap<MapData, u32, u32>,
    replayed: HashMap<MapData, AddressKey, u32>,
    counters: PerCpuArray<MapData, u64>,
    own_rules: OwnRules,
    last_words: LastWords,
    classifiers: Classifiers,
    shunts: Shunts,
    watches: Watches,
    port_sentries: PortSentries,
    openings: Openings,
    knows_types: bool,
    /// Withheld messages.
    pub reports: Ring,
    /// Requests of guarded daemons that the kernel refused.
    pub intents: Ring,
    /// Guarded daemons that exec, fork, exit or reload.
    pub tasks: Ring,
    /// Frames about who owns an address: see [`frame`].
    pub frames: Ring,
    /// Programs that were put on interfaces, for [`Programs::placed`].
    pub placings: Placings,
}

/// Has what loading took and needs no more go back to the kernel: glibc keeps what was freed below what is in
/// use (`malloc_trim(3)`), ten megabytes here. musl keeps nothing that large.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and gives back free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What programs are told of the kernel's structures.
#[derive(Clone, Copy)]
struct Known {
    devices: Option<Devices>,
    credentials: Option<Credentials>,
}

impl Known {
    fn of(types: &btf::Types) -> Self {
        Self { devices: sentry::devices(types), credentials: types.credentials() }
    }
}

impl Programs {
    /// Loads everything and attaches the tracepoints. `daemons` are the command names to report.
    ///
    /// Linux 5.8 for the ring buffer; raw tracepoints are older.
    pub fn load(daemons: &[String]) -> Result<Self, BpfError> {
        Self::load_with(daemons, &TABLE)
    }

    /// The same with these rules for the guard; the kernel does not let them be changed later.
    pub fn load_with(daemons: &[String], rules: &[Entry; RULES.len()]) -> Result<Self, BpfError> {
        memlock::lift();
        // The types themselves are megabytes.
        let known = btf::Types::of_kernel()
            .inspect_err(|error| log::info!("the kernel does not describe its types: {error}"))
            .map(|types| Known::of(&types))
            .ok();
        let loaded = match Self::load_knowing(known, daemons, rules) {
            // A kernel that is locked down for confidentiality lets programs read nothing of it. They work
            // without.
            Err(error @ BpfError::Refused { .. }) if known.is_some() => {
                log::info!("{}; trying without what it says of its types", causes(&error));
                Self::load_knowing(None, daemons, rules)
            }
            loaded => loaded,
        };
        give_back();
        loaded.map_err(probe::explain)
    }

    /// The same with what is known of the kernel's types.
    fn load_knowing(
        known: Option<Known>,
        daemons: &[String],
        rules: &[Entry; RULES.len()],
    ) -> Result<Self, BpfError> {
        let level = log_level();
        let devices = known.and_then(|known| known.devices);
        let credentials = known.and_then(|known| known.credentials);
        let namespace = opening::network_namespace();
        let mut loader = EbpfLoader::new();
        // It has read them too, for relocations that Rust's compiler does not write.
        loader.btf(None);
        loader.override_global(aya_log::LEVEL, &level, true);
        loader.override_global(constants::GUARD_RULES, rules.as_slice(), true);
        let cpus = nr_cpus().map_err(|(_, error)| BpfError::Cpus(error))?;
        loader.map_max_entries(maps::SOURCES, Watches::sources(cpus));
        if let Some(devices) = &devices {
            loader.override_global(constants::DEVICES, devices, true);
        }
        if let Some(credentials) = &credentials {
            loader.override_global(constants::CREDENTIALS, credentials, true);
        }
        if let Some(namespace) = &namespace {
            loader.override_global(constants::NETWORK_NAMESPACE, namespace, true);
        }
        let mut ebpf = loader.load(OBJECT)?;

        let mut task_names: HashMap<MapData, [u8; TASK_COMM_LEN], u32> =
            take(&mut ebpf, maps::TASK_NAMES)?;
        for name in daemons {
            task_names
                .insert(comm(name), 1, 0)
                .map_err(|source| BpfError::Map { map: maps::TASK_NAMES, source })?;
        }
        let mut own: HashMap<MapData, AddressKey, u32> = take(&mut ebpf, maps::OWN_ADDRESSES)?;
        for address in OWN {
            own.insert(address_key(address.into()), 1, 0)
                .map_err(|source| BpfError::Map { map: maps::OWN_ADDRESSES, source })?;
        }
        for program in
            [programs::TASK_EXEC, programs::TASK_FORK, programs::TASK_EXIT, programs::TASK_SIGNAL]
        {
            attach_tracepoint(&mut ebpf, program)?;
        }
        let (classifiers, placings) = Classifiers::load(&mut ebpf)?;
        let shunts = Shunts::load(&mut ebpf)?;
        let watches = Watches::load(&mut ebpf)?;

        Ok(Self {
            heartbeat: Some(Heartbeat::new(take(&mut ebpf, maps::HEARTBEAT)?)),
            nics: take(&mut ebpf, maps::NICS)?,
            names: take(&mut ebpf, maps::NAMES)?,
            link_held: take(&mut ebpf, maps::LINK_HELD)?,
            epochs: take(&mut ebpf, maps::EPOCHS)?,
            held: take(&mut ebpf, maps::ADDRESSES_HELD)?,
            command_ports: take(&mut ebpf, maps::COMMAND_PORTS)?,
            replayed: take(&mut ebpf, maps::REPLAYED)?,
            counters: take(&mut ebpf, maps::COUNTERS)?,
            own_rules: OwnRules::load(&mut ebpf)?,
            last_words: LastWords::new(take(&mut ebpf, maps::LAST_WORDS)?),
            reports: Ring::new(take(&mut ebpf, maps::REPORTS)?)?,
            intents: Ring::new(take(&mut ebpf, maps::INTENTS)?)?,
            tasks: Ring::new(take(&mut ebpf, maps::TASKS)?)?,
            frames: Ring::new(take(&mut ebpf, maps::FRAMES)?)?,
            placings,
            filters: Filters::load(&mut ebpf)?,
            classifiers,
            shunts,
            watches,
            knows_types: known.is_some(),
            port_sentries: PortSentries::new(devices.is_some()),
            openings: Openings::new(&mut ebpf, namespace.is_some())?,
            ebpf,
        })
    }

    /// Whether the programs read the kernel's structures. Without that ports are seen to join and leave a
    /// little later, and what a task may do is looked up in /proc.
    #[must_use]
    pub const fn knows_types(&self) -> bool {
        self.knows_types
    }

    /// The object, for aya-log.
    pub fn object_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Lets the guard withhold for another [`HEARTBEAT_LIFETIME_NS`] after `now_ns`
    /// (`CLOCK_MONOTONIC`).
    ///
    /// [`HEARTBEAT_LIFETIME_NS`]: vipshield_common::guard::HEARTBEAT_LIFETIME_NS
    pub fn beat(&mut self, now_ns: u64) -> Result<(), BpfError> {
        self.heartbeat.as_mut().ok_or(BpfError::Missing(maps::HEARTBEAT))?.beat(now_ns)
    }

    /// Makes every guard pass everything from now on.
    pub fn still(&mut self) -> Result<(), BpfError> {
        self.heartbeat.as_mut().ok_or(BpfError::Missing(maps::HEARTBEAT))?.still()
    }

    /// Has a thread keep the heartbeat from now on, by the clock `now_ns` (`CLOCK_MONOTONIC`).
    pub fn keep_heartbeat(&mut self, now_ns: fn() -> u64) -> Result<Pulse, BpfError> {
        let heartbeat = self.heartbeat.take().ok_or(BpfError::Missing(maps::HEARTBEAT))?;
        heartbeat.keep(now_ns).map_err(BpfError::Thread)
    }

    /// Lets the guard pass that this IPv6 address left a NIC, or no longer: of IPv4 it knows by the
    /// requester what is replayed.
    pub fn pass_removal(&mut self, ip: Ipv6Addr, pass: bool) -> Result<(), BpfError> {
        let key = AddressKey { address: ip.octets(), family: libc::AF_INET6 as u32 };
        if pass {
            let inserted = self.replayed.insert(key, 1, 0);
            inserted.map_err(|source| BpfError::Map { map: maps::REPLAYED, source })
        } else {
            absent_is_fine(maps::REPLAYED, self.replayed.remove(&key))
        }
    }

    /// Withholds exactly `withhold` about the NIC that the daemons know as `name`, but what rules of the operator's
    /// own let `passes`.
    pub fn set_policy(
        &mut self,
        ifindex: u32,
        name: &str,
        withhold: u32,
        passes: &LetPass,
    ) -> Result<(), BpfError> {
        let name = if_name(name)?;
        let before = self.nics.get(&ifindex, 0).map_or(0, |policy: NicPolicy| policy.withhold);
        if (before ^ withhold) & hides::RENAME != 0 {
            self.begin_epoch(ifindex)?;
        }
        self.nics
            .insert(ifindex, NicPolicy { name, withhold, passes: self.own_rules.places(passes) }, 0)
            .map_err(|source| BpfError::Map { map: maps::NICS, source })?;
        self.names
            .insert(name, ifindex, 0)
            .map_err(|source| BpfError::Map { map: maps::NAMES, source })?;
        // What the old policy held is the new policy's to decide.
        absent_is_fine(maps::LINK_HELD, self.link_held.remove(&ifindex))
    }

    /// What daemons were not told of the NIC's addresses says nothing any more of what they know: one that
    /// hears that an interface is called otherwise forgets all of it.
    pub fn begin_epoch(&mut self, ifindex: u32) -> Result<(), BpfError> {
        let before = self.epochs.get(&ifindex, 0).unwrap_or(0);
        let begun = self.epochs.insert(ifindex, before.wrapping_add(1), 0);
        begun.map_err(|source| BpfError::Map { map: maps::EPOCHS, source })
    }

    /// Withholds nothing more about the NIC.
    pub fn clear_policy(&mut self, ifindex: u32, name: &str) -> Result<(), BpfError> {
        absent_is_fine(maps::NICS, self.nics.remove(&ifindex))?;
        absent_is_fine(maps::EPOCHS, self.epochs.remove(&ifindex))?;
        let name = if_name(name)?;
        // Another NIC may be known by it now.
        if self.names.get(&name, 0).is_ok_and(|known| known == ifindex) {
            absent_is_fine(maps::NAMES, self.names.remove(&name))?;
        }
        absent_is_fine(maps::LINK_HELD, self.link_held.remove(&ifindex))
    }

    /// Passes what is asked for from exactly these netlink ports.
    pub fn set_command_ports(&mut self, ports: &[u32]) -> Result<(), BpfError> {
        let failed = |source| BpfError::Map { map: maps::COMMAND_PORTS, source };
        let known: Vec<u32> =
            self.command_ports.keys().collect::<Result<_, _>>().map_err(failed)?;
        for gone in known.iter().filter(|port| !ports.contains(port)) {
            absent_is_fine(maps::COMMAND_PORTS, self.command_ports.remove(gone))?;
        }
        for port in ports {
            self.command_ports.insert(port, 1, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Puts the guard on a socket, in place of any filter that is there.
    pub fn guard(
        &mut self,
        socket: impl AsFd,
        cookie: u64,
        entry: GuardedSocket,
    ) -> Result<(), BpfError> {
        self.filters.attach(&mut self.ebpf, Kind::Guard, socket, cookie, entry)
    }

    /// Has shunts thrown by what this rtnetlink monitor, joined to `RTNLGRP_LINK`, is told. The
    /// monitor misses nothing by it.
    pub fn post_sentry(&mut self, monitor: impl AsFd) -> Result<(), BpfError> {
        sentry::post_link_sentry(&mut self.ebpf, monitor)
    }

    /// Has it told which IPv6 address a daemon was granted, where the kernel lets a probe in.
    pub fn see_requests(&mut self) {
        sentry::post_address_sentry(&mut self.ebpf);
    }

    /// Lays the shunt of a NIC anew. With tcx (Linux 6.6) a thread does, and it is under way until that is
    /// [said](Self::placed); with clsact before, see [`Programs::unused_clsacts`]. None: it is laid.
    pub fn set_shunt(
        &mut self,
        nic: u32,
        shunt: Option<Shunt>,
    ) -> Result<Option<Ticket>, BpfError> {
        if shunt.is_some() {
            self.see_ports_leave();
        }
        self.shunts.set(&mut self.classifiers, &mut self.ebpf, nic, shunt)
    }

    /// Watches an interface, or does so no longer. Attached as for [`Programs::set_shunt`].
    pub fn set_watch(&mut self, ifindex: u32, wanted: bool) -> Result<Option<Ticket>, BpfError> {
        Watches::set(&mut self.classifiers, &mut self.ebpf, ifindex, wanted)
    }

    /// Takes note of what the thread has put on interfaces. Returns what that was asked for, and how it ended;
    /// none if nobody waits to hear of it.
    pub fn placed(&mut self, placed: Placed) -> Option<(Ticket, Result<(), BpfError>)> {
        let (ticket, done) = self.classifiers.placed(placed)?;
        let armed = self.shunts.placed(ticket, done.is_ok());
        Some((ticket, done.and(armed)))
    }

    /// Waits until all programs that were asked for are on their interfaces. The first error, if any was not
    /// put there.
    pub async fn all_placed(&mut self) -> Result<(), BpfError> {
        let mut all = Ok(());
        while self.classifiers.is_at_work() {
            let placed = self.placings.next().await?;
            let done = self.placed(placed).map_or(Ok(()), |(_, done)| done);
            all = all.and(done);
        }
        all
    }

    /// Reports claims of exactly these addresses; [`MAX_ADDRESSES`] at the most.
    ///
    /// [`MAX_ADDRESSES`]: vipshield_common::watch::MAX_ADDRESSES
    pub fn set_watched(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), BpfError> {
        self.watches.set_addresses(addresses)
    }

    /// Answers the neighbours of a NIC that is watched for exactly these addresses, for as long as
    /// the heartbeat is fresh.
    pub fn set_answers(&mut self, nic: u32, answers: &Answers) -> Result<(), BpfError> {
        self.watches.set_answers(nic, answers)
    }

    /// Has VRRP sockets of a NIC opened so from now on by the processes in these control groups; or as the
    /// kernel does it. Linux 5.15; where the kernel does not take the program that is said once.
    pub fn set_opening(
        &mut self,
        nic: u32,
        opening: Option<&Opening>,
        cgroups: &[File],
    ) -> Result<(), BpfError> {
        self.openings.set(&mut self.ebpf, nic, opening, cgroups)
    }

    /// Has ports seen to join or leave before the kernel says so. False: it does not let probes in,
    /// or there never was a bridge.
    pub fn see_ports_leave(&mut self) -> bool {
        self.port_sentries.post(&mut self.ebpf)
    }

    /// Takes one classifier that is of no use any more off its interface, which is to be done while nothing is
    /// under way: the kernel lets nobody change anything meanwhile. False: nothing has to be done, and no clsact
    /// became unused.
    pub fn tidy(&mut self) -> Result<bool, BpfError> {
        self.classifiers.take_off(&mut self.ebpf)
    }

    /// Takes off all that are of no use any more.
    pub async fn tidy_all(&mut self) -> Result<(), BpfError> {
        while self.tidy()? {}
        self.all_placed().await
    }

    /// Takes over what a vipshield that is gone has left on interfaces: nothing of it does anything any
    /// more.
    pub fn adopt_classifiers(&mut self) -> Result<(), BpfError> {
        self.classifiers.adopt().map_err(BpfError::Interfaces)
    }

    /// The interfaces on which clsact was made and is needed no longer, be it that something could
    /// not be attached. Each is named once. Those that are up are left out unless it is `the_end`:
    /// see [`Classifiers::unused_clsacts`].
    pub fn unused_clsacts(&mut self, the_end: bool) -> Result<Vec<u32>, BpfError> {
        self.classifiers.unused_clsacts(the_end).map_err(BpfError::Interfaces)
    }

    /// Has what the kernel refuses on a command socket reported, in place of any filter that is
    /// there.
    pub fn listen(
        &mut self,
        socket: impl AsFd,
        cookie: u64,
        entry: GuardedSocket,
    ) -> Result<(), BpfError> {
        self.filters.attach(&mut self.ebpf, Kind::Intent, socket, cookie, entry)
    }

    /// Takes the filter off a socket, whichever it is.
    pub fn unguard(&mut self, socket: impl AsFd, cookie: u64) -> Result<(), BpfError> {
        self.filters.detach(socket, cookie)
    }

    /// Drops what is known of a socket that is gone.
    pub fn forget_socket(&mut self, cookie: u64) -> Result<(), BpfError> {
        self.filters.forget(cookie)?;
        self.last_words.forget(cookie)
    }

    /// What was said on command sockets and found no room in [`Self::intents`] since this was last
    /// asked: the last words on all addresses. Those of a request that is known may be among them.
    pub fn late_intents(&mut self) -> Result<Vec<Event>, BpfError> {
        let late = self.counter(Counter::IntentsLate)?;
        if !self.last_words.are_news(late) {
            return Ok(Vec::new());
        }
        self.last_words()
    }

    /// The last word of each command socket on each address. What was granted for IPv4 is among it.
    pub fn last_words(&mut self) -> Result<Vec<Event>, BpfError> {
        let words = self.last_words.read()?;
        Ok(decode::last_words(&words))
    }

    /// How many requests found no room anywhere.
    pub fn intents_lost(&self) -> Result<u64, BpfError> {
        self.counter(Counter::IntentsLost)
    }

    /// All counters, summed over the CPUs.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, BpfError> {
        Counter::ALL.iter().map(|counter| Ok((*counter, self.counter(*counter)?))).collect()
    }

    /// How many messages each of the operator's own rules has passed, by its name.
    pub fn own_rules(&self) -> Result<Vec<(String, u64)>, BpfError> {
        self.own_rules.counts()
    }

    fn counter(&self, counter: Counter) -> Result<u64, BpfError> {
        let per_cpu = self.counters.get(&(counter as u32), 0);
        let per_cpu = per_cpu.map_err(|source| BpfError::Map { map: maps::COUNTERS, source })?;
        Ok(per_cpu.iter().sum())
    }

    /// How many events of [`Self::tasks`] found no room.
    pub fn task_events_lost(&self) -> Result<u64, BpfError> {
        self.counter(Counter::TaskEventsLost)
    }
}

/// An address as the kernel's map keys have it.
fn address_key(ip: IpAddr) -> AddressKey {
    match ip {
        IpAddr::V4(ip) => {
            let mut address = [0; 16];
            for (to, from) in address.iter_mut().zip(ip.octets()) {
                *to = from;
            }
            AddressKey { address, family: libc::AF_INET as u32 }
        }
        IpAddr::V6(ip) => AddressKey { address: ip.octets(), family: libc::AF_INET6 as u32 },
    }
}

/// What the programs log, as much as this process shows; aya-log numbers levels as `log` does.
fn log_level() -> u8 {
    log::max_level() as u8
}

fn attach_tracepoint(ebpf: &mut Ebpf, name: &'static str) -> Result<(), BpfError> {
    let failed = |error| BpfError::of(name, error);
    let program: &mut RawTracePoint =
        ebpf.program_mut(name).ok_or(BpfError::Missing(name))?.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    let tracepoint = match name {
        programs::TASK_EXEC => "sched_process_exec",
        programs::TASK_FORK => "sched_process_fork",
        programs::TASK_SIGNAL => "signal_generate",
        _ => "sched_process_exit",
    };
    program.attach(tracepoint).map_err(failed)?;
    Ok(())
}

fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, BpfError>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(BpfError::Missing(name))?;
    M::try_from(map).map_err(|source| BpfError::Map { map: name, source })
}

fn absent_is_fine(map: &'static str, result: Result<(), MapError>) -> Result<(), BpfError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        Err(source) => Err(BpfError::Map { map, source }),
    }
}

/// An interface name as the kernel's map keys have it.
fn if_name(name: &str) -> Result<IfName, BpfError> {
    let mut padded = [0; IFNAMSIZ];
    if name.is_empty() || name.len() >= IFNAMSIZ {
        return Err(BpfError::Name(name.to_owned()));
    }
    for (to, from) in padded.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    Ok(padded)
}

/// A command name as the kernel keeps it: cut off at 15 bytes.
fn comm(name: &str) -> [u8; TASK_COMM_LEN] {
    let mut padded = [0; TASK_COMM_LEN];
    for (to, from) in padded.iter_mut().zip(name.bytes()).take(TASK_COMM_LEN - 1) {
        *to = from;
    }
    padded
}

/// A ring buffer that tokio watches.
pub struct Ring(AsyncFd<RingBuf<MapData>>);

impl Ring {
    fn new(ring: RingBuf<MapData>) -> Result<Self, BpfError> {
        watch(ring).map(Self).map_err(BpfError::Watch)
    }

    /// Waits until something is there. Cancel safe.
    pub async fn wait(&mut self) -> Result<(), BpfError> {
        self.0.readable_mut().await.map(drop).map_err(BpfError::Watch)
    }

    /// Hands what is there already to `sink`, without waiting, [`ALL_AT_ONCE`] records at the most.
    pub fn read_now(&mut self, mut sink: impl FnMut(&[u8])) {
        for _ in 0..ALL_AT_ONCE {
            let Some(record) = self.0.get_mut().next() else { break };
            sink(&record);
        }
    }

    /// Waits until something is there and hands records to `sink`, [`BATCH`] at the most. Cancel safe.
    pub async fn read(&mut self, mut sink: impl FnMut(&[u8])) -> Result<(), BpfError> {
        let mut guard = self.0.readable_mut().await.map_err(BpfError::Watch)?;
        for _ in 0..BATCH {
            let Some(record) = guard.get_inner_mut().next() else {
                guard.clear_ready();
                break;
            };
            sink(&record);
        }
        Ok(())
    }
}

/// A report of the guard as the engine understands it; none for a record this version does not
/// know.
#[must_use]
pub fn withheld(record: &[u8]) -> Option<Withheld> {
    let report: GuardReport = decode::plain(record)?;
    decode::withheld(&report)
}

/// What a daemon asked of an address as the engine understands it.
#[must_use]
pub fn intent(record: &[u8]) -> Option<Event> {
    let report: IntentReport = decode::plain(record)?;
    decode::intent(&report)
}

/// A frame that the watch reported, and the bytes captured of it; none if a record is shorter than
/// it says.
#[must_use]
pub fn frame(record: &[u8]) -> Option<(FrameReport, &[u8])> {
    let report: FrameReport = decode::plain(record)?;
    let bytes = record.get(size_of::<FrameReport>()..)?;
    Some((report, bytes.get(..usize::try_from(report.captured).ok()?)?))
}

/// A frame that the watch reported as the engine understands it.
#[must_use]
pub fn heard(record: &[u8]) -> Option<Heard> {
    let (report, bytes) = frame(record)?;
    decode::heard(&report, bytes)
}

/// A task event.
#[must_use]
pub fn task_event(record: &[u8]) -> Option<TaskEvent> {
    decode::plain(record)
}
