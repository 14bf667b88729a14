//! Whether Open vSwitch takes new flows.
//!
//! A frame for which its datapath has no flow it hands to a process, ovs-vswitchd, that says what becomes
//! of it: over sockets of generic netlink whose ports the datapath knows. When that process is gone nobody
//! has these ports; when it hangs, what the datapath has handed over stays there. The datapath goes on with
//! the flows it has, and drops everything else (`ovs_dp_upcall` in `net/openvswitch/datapath.c`).
//!
//! The datapath tells these ports where it has one for each CPU: Linux 5.15, Open vSwitch 2.16. Before
//! that each of its ports has some of its own, and here nothing is said.

use std::{collections::BTreeMap, fs, io, time::Duration};

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable, NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};
use thiserror::Error;

/// `linux/openvswitch.h`.
const FAMILY: &str = "ovs_datapath";
const OVS_DATAPATH_VERSION: u8 = 2;
const OVS_DP_CMD_GET: u8 = 3;
const OVS_DP_ATTR_PER_CPU_PIDS: u16 = 8;

/// Netlink sockets of this network namespace.
const SOCKETS: &str = "/proc/thread-self/net/netlink";

/// The kernel answers within the system call.
const ANSWER: Duration = Duration::from_secs(2);

/// It cannot be told whether a switch takes new flows.
#[derive(Debug, Error)]
pub enum SwitchError {
    /// The kernel was asked, and refused, or did not answer.
    #[error("asking for the datapath of interface {ifindex}: {source}")]
    Datapath {
        /// Interface index.
        ifindex: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// Which netlink ports are in use.
    #[error("{SOCKETS}: {0}")]
    Sockets(#[source] io::Error),
}

/// Who says what becomes of new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Nobody.
    Gone,
    /// Somebody who has questions waiting: it may be that they come faster than they are answered.
    Behind,
    /// Somebody who has answered all.
    Prompt,
}

/// Who says what becomes of new flows in the datapath whose own interface this is. None: it does not tell.
/// It may wait for as long as somebody changes a switch.
pub fn service(ifindex: u32) -> Result<Option<Service>, SwitchError> {
    let failed = |source| SwitchError::Datapath { ifindex, source };
    let ports = upcall_ports(ifindex).map_err(failed)?;
    if ports.is_empty() {
        return Ok(None);
    }
    let table = fs::read_to_string(SOCKETS).map_err(SwitchError::Sockets)?;
    let in_use = generic_ports(&table);
    let waiting: Vec<u64> = ports.iter().filter_map(|port| in_use.get(port)).copied().collect();
    Ok(Some(match waiting.iter().max() {
        None => Service::Gone,
        Some(0) => Service::Prompt,
        Some(_) => Service::Behind,
    }))
}

/// The netlink ports to which a datapath hands what it has no flow for.
fn upcall_ports(ifindex: u32) -> io::Result<Vec<u32>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let patience = TimeVal::new(i64::try_from(ANSWER.as_secs()).unwrap_or_default(), 0);
    setsockopt(&socket, ReceiveTimeout, &patience)?;
    let family = GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY.to_owned())],
    };
    let known = ask(&socket, GenlMessage::from_payload(family))?;
    let id = known.nlas.iter().find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(id) => Some(*id),
        _ => None,
    });
    let mut question = GenlMessage::from_payload(Datapath { ifindex, upcall_ports: Vec::new() });
    question.set_resolved_family_id(id.ok_or(io::ErrorKind::InvalidData)?);
    Ok(ask(&socket, question)?.upcall_ports)
}

fn ask<F>(socket: &Socket, message: GenlMessage<F>) -> io::Result<F>
where
    F: std::fmt::Debug,
    GenlMessage<F>:
        NetlinkSerializable + NetlinkDeserializable + Into<NetlinkPayload<GenlMessage<F>>>,
{
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<GenlMessage<F>>::deserialize(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    match answer.payload {
        NetlinkPayload::InnerMessage(message) => Ok(message.payload),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A question for a datapath, or the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Datapath {
    /// `struct ovs_header`: index of its own interface.
    ifindex: u32,
    /// To whom it hands what it has no flow for.
    upcall_ports: Vec<u32>,
}

impl GenlFamily for Datapath {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        OVS_DP_CMD_GET
    }

    fn version(&self) -> u8 {
        OVS_DATAPATH_VERSION
    }
}

impl Emitable for Datapath {
    fn buffer_len(&self) -> usize {
        size_of::<u32>()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer.iter_mut().zip(self.ifindex.to_ne_bytes()).for_each(|(to, from)| *to = from);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Datapath {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let (ifindex, attributes) = bytes
            .split_first_chunk()
            .ok_or_else(|| DecodeError::from("a datapath without its header"))?;
        let mut upcall_ports = Vec::new();
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute?;
            if attribute.kind() == OVS_DP_ATTR_PER_CPU_PIDS {
                let (ports, _) = attribute.value().as_chunks();
                upcall_ports.extend(ports.iter().copied().map(u32::from_ne_bytes));
            }
        }
        // None is for a CPU that has none.
        upcall_ports.retain(|port| *port != 0);
        Ok(Self { ifindex: u32::from_ne_bytes(*ifindex), upcall_ports })
    }
}

/// The ports of generic netlink in the kernel's table of netlink sockets, and how many bytes wait there to be
/// read: an address, the protocol, the port, groups and these bytes come first in each of its lines
/// (`netlink_native_seq_show` in `net/netlink/af_netlink.c`).
fn generic_ports(table: &str) -> BTreeMap<u32, u64> {
    let port = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let protocol = words.next()?.parse::<isize>().ok()?;
        let port = words.next()?.parse().ok()?;
        let waiting = words.nth(1)?.parse().ok()?;
        (protocol == NETLINK_GENERIC).then_some((port, waiting))
    };
    table.lines().skip(1).filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_generic_netlink_are_found_among_all() {
        let table = "\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000000000000 0   1234       00000111 0        0        0     2        0        20100
0000000000000000 16  4294963201 00000000 2304     0        0     2        0        20101
0000000000000000 16  0          00000000 0        0        0     2        0        7
0000000000000000 16
0000000000000000 16  9          00000000
garbage
";
        assert_eq!(generic_ports(table), BTreeMap::from([(0, 0), (4_294_963_201, 2304)]));
        assert!(generic_ports("").is_empty());
    }

    #[test]
    fn a_datapath_says_to_whom_it_hands_new_flows() {
        let header = || GenlHeader { cmd: 1, version: 2 };
        let attribute = |kind: u16, value: &[u8]| {
            let length = u16::try_from(4 + value.len()).unwrap();
            [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
        };
        let ports = [7_u32.to_ne_bytes(), 0_u32.to_ne_bytes(), 9_u32.to_ne_bytes()].concat();
        let answer = [
            &5_u32.to_ne_bytes()[..],
            &attribute(1, b"ovs-system\0\0"),
            &attribute(OVS_DP_ATTR_PER_CPU_PIDS, &ports),
        ]
        .concat();
        let datapath = Datapath::parse_with_param(&answer[..], header()).unwrap();
        assert_eq!(datapath, Datapath { ifindex: 5, upcall_ports: vec![7, 9] });
        for length in 0..answer.len() {
            let cut = Datapath::parse_with_param(&answer[..length], header());
            assert!(cut.is_err() || cut.is_ok_and(|it| it.upcall_ports.len() < 2), "{length}");
        }
    }
}
