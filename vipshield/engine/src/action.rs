//! What the engine wants done.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{
    carry::{Detours, Plan, Shunt},
    names::Opening,
    notice::Notice,
    own::LetPass,
    watch::Answers,
    world::{Address, Family, SocketId, VrrpSocket},
};

/// Something to be done. Every action but [`Tell`](Action::Tell) and [`Finish`](Action::Finish)
/// comes back as [`Succeeded`](super::Event::Succeeded) or [`Failed`](super::Event::Failed).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Make the guard withhold exactly this about a NIC.
    SetPolicy {
        /// The NIC.
        ifindex: u32,
        /// The name under which the daemons know it.
        name: String,
        /// Bits of [`vipshield_common::guard::withhold`].
        withhold: u32,
        /// The rules of the operator's own, which come first: by message the name of that which passes it.
        #[serde(default, skip_serializing_if = "LetPass::is_empty")]
        passes: LetPass,
    },
    /// Make the guard withhold nothing more about a NIC.
    ClearPolicy {
        /// The NIC.
        ifindex: u32,
        /// The name under which the daemons know it.
        name: String,
    },
    /// Have the guard pass what is asked for from exactly these netlink ports: the daemons' own.
    SetCommandPorts {
        /// The ports.
        ports: Vec<u32>,
    },
    /// Put the guard on a monitor socket.
    Guard {
        /// Which.
        socket: SocketId,
    },
    /// Have what the kernel refuses on a command socket reported.
    Listen {
        /// Which.
        socket: SocketId,
    },
    /// Take vipshield's filter off a socket.
    Unguard {
        /// Which.
        socket: SocketId,
    },
    /// Move a VRRP socket to another interface.
    Rebind {
        /// Which.
        socket: VrrpSocket,
        /// The NIC it belongs to.
        nic: u32,
        /// The interface to bind it to; none: it is let go of, and sends by whatever way there is.
        to: Option<u32>,
    },
    /// Have VRRP sockets that daemons open anew for a NIC find its traffic, whatever it is called now.
    SetOpening {
        /// The NIC.
        nic: u32,
        /// How; none if it has its name itself.
        opening: Option<Opening>,
    },
    /// Let a VRRP socket of IPv6 send from an address that is on no interface, or no longer.
    Speak {
        /// Which.
        socket: SocketId,
        /// It may.
        from_anywhere: bool,
    },
    /// Take an address that no daemon wants off an interface.
    RemoveVip {
        /// The interface.
        ifindex: u32,
        /// The address, as it is there.
        address: Address,
    },
    /// Move an address that a daemon put on an enslaved NIC to where it is of use.
    MoveVip {
        /// The address.
        address: Address,
        /// The NIC.
        from: u32,
        /// Its bearer.
        to: u32,
    },
    /// Tell the network that an address is reached through this interface, at the hardware address that it has
    /// when that is done.
    Announce {
        /// The interface.
        ifindex: u32,
        /// The address.
        address: IpAddr,
    },
    /// Replace what is carried for a NIC.
    Carry {
        /// The NIC.
        ifindex: u32,
        /// What is in force. Of more than one, after a failure: any part of them.
        old: Vec<Plan>,
        /// What is to be.
        new: Plan,
        /// All rules that are to be, for whichever NIC; none if they are as they should be.
        detours: Option<Detours>,
    },
    /// Put back routes as they were that have this address as their source, where they are not there any more.
    RestoreRoutes {
        /// The address.
        source: IpAddr,
        /// Interfaces whose routes go with the NIC.
        except: BTreeSet<u32>,
    },
    /// Lay the shunt of a NIC anew.
    Shunt {
        /// The NIC.
        ifindex: u32,
        /// What is to be.
        shunt: Option<Shunt>,
    },
    /// Have frames about who owns an address reported that pass an interface, or no longer.
    Watch {
        /// The interface.
        ifindex: u32,
        /// They are to be.
        wanted: bool,
    },
    /// Report claims of exactly these addresses; adverts are reported in any case.
    WatchAddresses {
        /// The addresses.
        addresses: BTreeSet<IpAddr>,
    },
    /// Have neighbours of a NIC answered for exactly these addresses.
    Answer {
        /// The NIC.
        ifindex: u32,
        /// For which ones, and how.
        answers: Answers,
    },
    /// Have a socket like those with which daemons receive adverts, on an interface; or none.
    SetProbe {
        /// The interface.
        ifindex: u32,
        /// IPv4 or IPv6.
        family: Family,
        /// The groups that it is a member of; none if it is not to be there.
        groups: Option<BTreeSet<IpAddr>>,
    },
    /// Put an address of link scope on a port, or take it off: a daemon that starts takes a NIC
    /// without an address for one that failed.
    StandIn {
        /// The NIC.
        ifindex: u32,
        /// It is to be there.
        wanted: bool,
    },
    /// Have the kernel say on this socket how a link now is.
    ResyncLink {
        /// The monitor socket.
        socket: SocketId,
        /// The link.
        ifindex: u32,
    },
    /// Have the kernel say again that an address is gone, to every daemon.
    ReplayRemoval {
        /// The interface it is gone from.
        ifindex: u32,
        /// The address.
        address: Address,
    },
    /// Have the kernel say to every daemon that an address is on this interface, and that
    /// vipshield's own are not. If it is on another one, withhold that it was here only for a
    /// moment.
    ShowAddress {
        /// The interface the daemons know.
        ifindex: u32,
        /// The address; none if they have read the right one, and vipshield's own perhaps too.
        address: Option<Address>,
    },
    /// Look for daemons, and at their sockets, now.
    Rescan,
    /// Tell the operator.
    Tell {
        /// What.
        notice: Notice,
    },
    /// Everything asked for by [`Stop`](super::Event::Stop) has been tried: end.
    Finish {
        /// Sockets and VIPs stay as they are, and what is left on them for the next vipshield.
        kept: bool,
        /// How much of it could not be done.
        undone: u32,
    },
}

impl Action {
    /// What those are called that may fail.
    pub const KINDS: [&'static str; 24] = [
        "set_policy",
        "clear_policy",
        "set_command_ports",
        "guard",
        "listen",
        "unguard",
        "rebind",
        "set_opening",
        "speak",
        "remove_vip",
        "move_vip",
        "announce",
        "carry",
        "restore_routes",
        "shunt",
        "watch",
        "watch_addresses",
        "answer",
        "set_probe",
        "stand_in",
        "resync_link",
        "replay_removal",
        "show_address",
        "rescan",
    ];

    /// What it is called, as in recordings.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::SetPolicy { .. } => "set_policy",
            Self::ClearPolicy { .. } => "clear_policy",
            Self::SetCommandPorts { .. } => "set_command_ports",
            Self::Guard { .. } => "guard",
            Self::Listen { .. } => "listen",
            Self::Unguard { .. } => "unguard",
            Self::Rebind { .. } => "rebind",
            Self::SetOpening { .. } => "set_opening",
            Self::Speak { .. } => "speak",
            Self::RemoveVip { .. } => "remove_vip",
            Self::MoveVip { .. } => "move_vip",
            Self::Announce { .. } => "announce",
            Self::Carry { .. } => "carry",
            Self::RestoreRoutes { .. } => "restore_routes",
            Self::Shunt { .. } => "shunt",
            Self::Watch { .. } => "watch",
            Self::WatchAddresses { .. } => "watch_addresses",
            Self::Answer { .. } => "answer",
            Self::SetProbe { .. } => "set_probe",
            Self::StandIn { .. } => "stand_in",
            Self::ResyncLink { .. } => "resync_link",
            Self::ReplayRemoval { .. } => "replay_removal",
            Self::ShowAddress { .. } => "show_address",
            Self::Rescan => "rescan",
            Self::Tell { .. } => "tell",
            Self::Finish { .. } => "finish",
        }
    }

    /// Whether nothing of the node's, nor of a daemon's, is another for it.
    pub(super) const fn only_looks(&self) -> bool {
        matches!(
            self,
            Self::Watch { .. }
                | Self::WatchAddresses { .. }
                | Self::SetProbe { .. }
                | Self::Rescan
                | Self::Tell { .. }
                | Self::Finish { .. }
        )
    }

    /// The process that it is about.
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Guard { socket, .. }
            | Self::Listen { socket }
            | Self::Unguard { socket }
            | Self::Speak { socket, .. }
            | Self::ResyncLink { socket, .. } => Some(socket.pid),
            Self::Rebind { socket, .. } => Some(socket.id.pid),
            Self::SetPolicy { .. }
            | Self::ClearPolicy { .. }
            | Self::SetCommandPorts { .. }
            | Self::SetOpening { .. }
            | Self::Carry { .. }
            | Self::RestoreRoutes { .. }
            | Self::Shunt { .. }
            | Self::RemoveVip { .. }
            | Self::MoveVip { .. }
            | Self::Announce { .. }
            | Self::StandIn { .. }
            | Self::ReplayRemoval { .. }
            | Self::ShowAddress { .. }
            | Self::Rescan
            | Self::Watch { .. }
            | Self::WatchAddresses { .. }
            | Self::Answer { .. }
            | Self::SetProbe { .. }
            | Self::Tell { .. }
            | Self::Finish { .. } => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetPolicy { name, .. } => write!(f, "arming the guard for {name}"),
            Self::ClearPolicy { name, .. } => write!(f, "disarming the guard for {name}"),
            Self::SetCommandPorts { .. } => {
                f.write_str("telling the guard which requests are the daemons' own")
            }
            Self::SetOpening { nic, .. } => {
                write!(f, "choosing where new VRRP sockets of interface {nic} are bound")
            }
            Self::Guard { socket } => write!(f, "guarding {socket}"),
            Self::Listen { socket } => write!(f, "listening in on {socket}"),
            Self::Unguard { socket } => write!(f, "taking the filter off {socket}"),
            Self::RemoveVip { ifindex, address } => {
                write!(f, "taking {address} off interface {ifindex}")
            }
            Self::MoveVip { address, from, to } => {
                write!(f, "moving {address} from interface {from} to interface {to}")
            }
            Self::Announce { ifindex, address } => {
                write!(f, "announcing {address} on interface {ifindex}")
            }
            Self::Speak { socket, .. } => write!(f, "choosing what {socket} may send from"),
            Self::Rebind { socket, to: Some(to), .. } => {
                write!(f, "moving the VRRP socket {} to interface {to}", socket.id)
            }
            Self::Rebind { socket, to: None, nic } => {
                write!(f, "letting the VRRP socket {} go of interface {nic}", socket.id)
            }
            Self::Carry { ifindex, new, .. } if new.is_empty() => {
                write!(f, "ending the carry for interface {ifindex}")
            }
            Self::Carry { ifindex, .. } => write!(f, "carrying for interface {ifindex}"),
            Self::RestoreRoutes { source, .. } => {
                write!(f, "putting back the routes with the source {source}")
            }
            Self::Shunt { ifindex, shunt: None } => {
                write!(f, "taking up the shunt of interface {ifindex}")
            }
            Self::Shunt { ifindex, shunt: Some(shunt) } => {
                write!(f, "laying a shunt between interfaces {ifindex} and {}", shunt.bearer)
            }
            Self::Watch { ifindex, wanted: true } => write!(f, "watching interface {ifindex}"),
            Self::Watch { ifindex, .. } => write!(f, "ending the watch on interface {ifindex}"),
            Self::WatchAddresses { .. } => f.write_str("watching who claims a daemon's addresses"),
            Self::Answer { ifindex, answers } if answers.addresses.is_empty() => {
                write!(f, "leaving the neighbours of interface {ifindex} to the kernel")
            }
            Self::Answer { ifindex, .. } => {
                write!(f, "answering the neighbours of interface {ifindex}")
            }
            Self::SetProbe { ifindex, groups: None, .. } => {
                write!(f, "no longer listening for adverts on interface {ifindex}")
            }
            Self::SetProbe { ifindex, .. } => {
                write!(f, "listening for adverts on interface {ifindex}")
            }
            Self::StandIn { ifindex, wanted: true } => {
                write!(f, "giving interface {ifindex} a stand-in for its address")
            }
            Self::StandIn { ifindex, .. } => {
                write!(f, "taking the stand-in for its address off interface {ifindex}")
            }
            Self::ResyncLink { socket, ifindex } => {
                write!(f, "telling {socket} the state of interface {ifindex}")
            }
            Self::ReplayRemoval { ifindex, address } => {
                write!(f, "saying again that {address} left interface {ifindex}")
            }
            Self::ShowAddress { ifindex, address: Some(address) } => {
                write!(f, "showing daemons {address} on interface {ifindex}")
            }
            Self::ShowAddress { ifindex, .. } => {
                write!(f, "telling daemons that interface {ifindex} has none of vipshield's")
            }
            Self::Rescan => f.write_str("looking at the daemons' sockets"),
            Self::Tell { notice } => write!(f, "telling: {notice}"),
            Self::Finish { .. } => f.write_str("ending"),
        }
    }
}
