//! What is on a socket goes on to the guard of a vipshield that lives: with it the guard is gone, and
//! another one's takes its place without a gap.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, ErrorKind, Write as _},
    net::Ipv4Addr,
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread,
};

use libtest_mimic::Failed;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{
    prctl::set_pdeathsig,
    signal::Signal,
    socket::{setsockopt, sockopt::RcvBufForce},
};
use vipshield::{bpf::Programs, daemons, engine::LetPass};
use vipshield_common::{counters::Counter, guard::GuardedSocket};

use super::{
    FREE, check,
    namespace::{self, PATIENCE, Seen, Stage, monotonic_ns},
};

/// Set in the environment of a process that guards its standard input; to the NIC's index.
const VARIABLE: &str = "VIPSHIELD_TEST_GUARDS";

/// What was withheld by a vipshield that is killed passes within so much time. Seen: some milliseconds;
/// the rest is for a machine that is busy.
const AT_ONCE_NS: u64 = 500_000_000;

/// Guards its standard input until it is killed, if this process was started for that.
pub(crate) fn be_vipshield() -> Option<Result<(), Failed>> {
    env::var(VARIABLE).ok().map(|nic| guard_until_killed(&nic))
}

fn guard_until_killed(nic: &str) -> Result<(), Failed> {
    set_pdeathsig(Signal::SIGKILL)?;
    let runtime = namespace::runtime()?;
    let _inside = runtime.enter();
    let mut programs = Programs::load(&[])?;
    // Only its death ends what it withholds.
    programs.beat(monotonic_ns()? + u64::try_from(PATIENCE.as_nanos())?)?;
    programs.set_policy(nic.parse()?, "nic", FREE, &LetPass::new())?;
    let socket = io::stdin();
    let entry = GuardedSocket { port: daemons::port(&socket)?, replay_port: 0 };
    programs.guard(&socket, daemons::cookie(&socket)?, entry)?;
    println!("ready");
    io::stdout().flush()?;
    loop {
        thread::park();
    }
}

fn another_process(stage: &Stage) -> Result<Child, Failed> {
    let mut child = Command::new(env::current_exe()?)
        .env(VARIABLE, stage.index("nic")?.to_string())
        .stdin(Stdio::from(stage.socket().try_clone_to_owned()?))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut ready = String::new();
    let output = child.stdout.take().ok_or("its output is piped")?;
    BufReader::new(output).read_line(&mut ready)?;
    check(ready == "ready\n", "it guards")?;
    Ok(child)
}

/// Whether the daemon sees that an address is gone.
fn sees_removal(stage: &mut Stage) -> Result<bool, Failed> {
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.delete_address("nic", "192.0.2.11/24")?;
    Ok(stage.seen()?.contains(&Seen::AddressGone("192.0.2.11".parse()?)))
}

/// A vipshield that is killed withholds nothing more, however fresh its heartbeat.
pub(crate) fn killed() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    let mut vipshield = another_process(&stage)?;
    for _ in 0..100 {
        check(!sees_removal(&mut stage)?, "withheld while it lives")?;
    }
    vipshield.kill()?;
    let killed = monotonic_ns()?;
    vipshield.wait()?;
    while !sees_removal(&mut stage)? {
        check(monotonic_ns()? < killed + AT_ONCE_NS, "withheld by one that is dead")?;
    }
    println!("all passed {} µs after SIGKILL", (monotonic_ns()? - killed) / 1000);
    for _ in 0..100 {
        check(sees_removal(&mut stage)?, "and it stays so")?;
    }
    Ok(())
}

/// So many removals are asked for at a time.
const IN_A_STORM: usize = 64;

/// How many removals have reached the daemon since this was asked last.
fn removals(stage: &mut Stage) -> Result<usize, Failed> {
    let seen = stage.seen()?.into_iter();
    Ok(seen.filter(|seen| matches!(seen, Seen::AddressGone(_))).count())
}

/// So little room a socket has in the next case. A guard of its own on each socket would need ten times as much.
const LITTLE_ROOM: u32 = 1024;

/// So often each of the two takes the other's place in a row, and so many rows there are.
const IN_A_ROW: usize = 20;
const ROWS: usize = 100;

/// Two vipshields take each other's place while addresses come and go: nothing passes, and each message is
/// judged by one of them.
pub(crate) fn exchanged() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    // Since Linux 6.8 each network namespace has a limit of its own.
    match fs::write("/proc/sys/net/core/optmem_max", LITTLE_ROOM.to_string()) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        written => written?,
    }
    stage.arm(FREE)?;
    // It is read now and then only.
    setsockopt(&stage.socket(), RcvBufForce, &(64 << 20))?;
    let mut other = stage.load_another()?;
    other.beat(monotonic_ns()? + u64::try_from(PATIENCE.as_nanos())?)?;
    let nic = stage.index("nic")?;
    other.set_policy(nic, "nic", FREE, &LetPass::new())?;
    let entry = GuardedSocket { port: daemons::port(stage.socket())?, replay_port: 0 };
    let cookie = stage.cookie()?;
    let (go, going) = sync_channel(0);
    let (gone, removed) = thread::scope(|scope| {
        let storm = scope.spawn(|| storm(nic, going));
        let gone = (0..ROWS).try_fold(0, |gone, _| {
            go.send(())?;
            for _ in 0..IN_A_ROW {
                other.guard(stage.socket(), cookie, entry)?;
                stage.programs.guard(stage.monitor.as_fd(), cookie, entry)?;
            }
            let more = removals(&mut stage)?;
            other.guard(stage.socket(), cookie, entry)?;
            Ok::<_, Failed>(gone + more + removals(&mut stage)?)
        });
        drop(go);
        let removed = storm.join().map_err(|_| "the storm's thread died")??;
        Ok::<_, Failed>((gone?, removed))
    })?;
    let gone = gone + removals(&mut stage)?;
    let counted = |programs: &Programs| -> Result<u64, Failed> {
        let counters = programs.counters()?;
        Ok(counters.iter().filter(|(it, _)| *it == Counter::WithheldAddress).map(|it| it.1).sum())
    };
    let judged = [counted(&stage.programs)?, counted(&other)?];
    println!(
        "{} exchanges, {removed} removals: {gone} seen, withheld by each {judged:?}",
        2 * IN_A_ROW * ROWS
    );
    check(gone == 0, format!("{gone} of {removed} removals were seen"))?;
    check(judged.iter().sum::<u64>() == removed, format!("{judged:?} of {removed} withheld"))?;
    check(judged.iter().all(|withheld| *withheld > 0), format!("each had a share: {judged:?}"))
}

/// Adds an address to the NIC and removes it, many times with one system call, each time that it is told
/// to. Returns how often.
fn storm(nic: u32, going: Receiver<()>) -> Result<u64, Failed> {
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    address.header.index = nic;
    address.header.prefix_len = 24;
    let ip = Ipv4Addr::new(192, 0, 2, 11).into();
    address.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    let mut requests = Vec::new();
    for message in
        [RouteNetlinkMessage::NewAddress(address.clone()), RouteNetlinkMessage::DelAddress(address)]
    {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_CREATE;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        requests.append(&mut bytes);
    }
    let requests = requests.repeat(IN_A_STORM);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let mut removed = 0;
    for () in going {
        for _ in 0..4 {
            socket.send_to(&requests, &SocketAddr::new(0, 0), 0)?;
            removed += IN_A_STORM as u64;
        }
    }
    Ok(removed)
}
