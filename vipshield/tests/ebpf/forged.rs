//! Messages that the kernel does not send, or not so many: this process sends them to the daemon's
//! socket, where the guard judges them as any other.

use libtest_mimic::Failed;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use vipshield::daemons;
use vipshield_common::counters::Counter;

use super::{
    FREE, check,
    namespace::{Stage, receive},
};

/// `linux/rtnetlink.h`.
const RTM_NEWLINK: u16 = 16;
const RTM_DELADDR: u16 = 21;
const AF_INET: u8 = 2;
const IFA_LOCAL: u16 = 2;
const IFLA_MTU: u16 = 4;

/// Sends messages to the daemon's monitor.
struct Forger {
    socket: Socket,
    to: SocketAddr,
}

impl Forger {
    fn for_monitor(stage: &Stage) -> Result<Self, Failed> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        Ok(Self { socket, to: SocketAddr::new(daemons::port(stage.socket())?, 0) })
    }

    fn send(&self, message: &[u8]) -> Result<(), Failed> {
        self.socket.send_to(message, &self.to, 0)?;
        Ok(())
    }
}

/// A message of this type, with its length.
fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = (16 + body.len() as u32).to_ne_bytes();
    [&length[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
}

fn attribute(kind: u16, payload: [u8; 4]) -> Vec<u8> {
    [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &payload].concat()
}

/// The header of a message about an address of an interface.
fn about_address(ifindex: u32) -> Vec<u8> {
    [&[AF_INET, 24, 0, 0][..], &ifindex.to_ne_bytes()].concat()
}

/// What is too short to be understood passes as it is.
pub(crate) fn malformed() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let nic = stage.index("nic")?;
    let forger = Forger::for_monitor(&stage)?;
    let nameless = [&[0; 16][..], &attribute(IFLA_MTU, [0; 4])].concat();
    let cases = [
        ("half a header", vec![0; 8]),
        ("half a link", message(RTM_NEWLINK, &[0; 8])),
        ("a link without a name", message(RTM_NEWLINK, &nameless)),
        ("half an address", message(RTM_DELADDR, &[AF_INET; 4])),
        ("an address without one", message(RTM_DELADDR, &about_address(nic))),
    ];
    for (done, (what, sent)) in (1..).zip(cases) {
        forger.send(&sent)?;
        check(receive(&stage.monitor)? == sent, format!("{what} passes"))?;
        stage.counted(Counter::PassedMalformed, done)?;
    }
    Ok(())
}

/// Where nobody reads the reports they are lost and counted, and what is withheld stays so.
pub(crate) fn reports_nobody_reads() -> Result<(), Failed> {
    const REMOVALS: u64 = 2000;
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let nic = stage.index("nic")?;
    let forger = Forger::for_monitor(&stage)?;
    let local = attribute(IFA_LOCAL, [192, 0, 2, 11]);
    let removal = message(RTM_DELADDR, &[about_address(nic), local].concat());
    for _ in 0..REMOVALS {
        forger.send(&removal)?;
    }
    stage.counted(Counter::WithheldAddress, REMOVALS)?;
    check(stage.seen()?.is_empty(), "the daemon is told of none")?;
    let lost = stage.count(Counter::ReportsLost)?;
    check(lost > 0, "some are lost")?;
    let kept = stage.reports()?.len() as u64;
    check(kept + lost == REMOVALS, format!("{kept} kept and {lost} lost"))
}
