//! What vipshield's eBPF programs and its userspace half say to each other: policies, reports,
//! counters, and the names of the maps they travel in.
//!
//! Every type is `repr(C)` without implicit padding, made of plain integers, and its size is
//! asserted at compile time, so that both halves read the same bytes.
#![no_std]
#![expect(clippy::inline_always, reason = "the eBPF programs' verifier wants straight code")]

pub mod counters;
pub mod guard;
pub mod intent;
pub mod rule;
pub mod shunt;
pub mod tasks;
pub mod watch;

/// What is at which place of [`maps::FILTERS`].
pub mod filters {
    /// [`programs::NETLINK_GUARD`](crate::programs::NETLINK_GUARD).
    pub const GUARD: u32 = 0;
    /// [`programs::NETLINK_INTENT`](crate::programs::NETLINK_INTENT).
    pub const INTENT: u32 = 1;
    /// How many there are.
    pub const COUNT: u32 = 2;
}

/// Names of the maps, as the eBPF object spells them.
pub mod maps {
    /// Program array: what [`filters`](crate::filters) says, for as long as vipshield's process holds it.
    pub const FILTERS: &str = "FILTERS";
    /// Array of one `u64`: until when ([`bpf_ktime_get_ns`][1]) the guard may withhold anything.
    ///
    /// [1]: https://man7.org/linux/man-pages/man7/bpf-helpers.7.html
    pub const HEARTBEAT: &str = "HEARTBEAT";
    /// Hash: interface index to [`NicPolicy`](crate::guard::NicPolicy).
    pub const NICS: &str = "NICS";
    /// Hash: interface name to the index of the guarded NIC known under it.
    pub const NAMES: &str = "NAMES";
    /// Hash: interface index to 1 while a link message about it is being withheld.
    pub const LINK_HELD: &str = "LINK_HELD";
    /// Hash: interface index to the number of its epoch; 0 if it is not there.
    pub const EPOCHS: &str = "EPOCHS";
    /// LRU hash: [`HeldAddress`](crate::guard::HeldAddress) to [`Held`](crate::guard::Held).
    pub const ADDRESSES_HELD: &str = "ADDRESSES_HELD";
    /// Hash: [`AddressKey`](crate::guard::AddressKey) of addresses that are vipshield's own.
    pub const OWN_ADDRESSES: &str = "OWN_ADDRESSES";
    /// Hash: socket cookie to [`GuardedSocket`](crate::guard::GuardedSocket), for each socket with a
    /// filter of vipshield's.
    pub const SOCKETS: &str = "SOCKETS";
    /// Hash: netlink port of a daemon's command socket to 1: what it asked for passes.
    pub const COMMAND_PORTS: &str = "COMMAND_PORTS";
    /// IPv6 addresses whose removal is being said again.
    pub const REPLAYED: &str = "REPLAYED";
    /// Ring buffer of [`GuardReport`](crate::guard::GuardReport).
    pub const REPORTS: &str = "REPORTS";
    /// Ring buffer of [`IntentReport`](crate::intent::IntentReport).
    pub const INTENTS: &str = "INTENTS";
    /// Hash: [`WordKey`](crate::intent::WordKey) to the last
    /// [`IntentReport`](crate::intent::IntentReport) of it.
    pub const LAST_WORDS: &str = "LAST_WORDS";
    /// Hash: command name of a task worth a word, to what it may mean.
    pub const TASK_NAMES: &str = "TASK_NAMES";
    /// Ring buffer of [`TaskEvent`](crate::tasks::TaskEvent).
    pub const TASKS: &str = "TASKS";
    /// Hash: interface index to [`ShuntEnd`](crate::shunt::ShuntEnd).
    pub const SHUNT_ENDS: &str = "SHUNT_ENDS";
    /// Hash: interface index of a NIC to [`Thrown`](crate::shunt::Thrown).
    pub const SHUNTED: &str = "SHUNTED";
    /// Hash: interface index to 1 if it is a guarded NIC that is called otherwise, or bears its traffic, or
    /// may.
    pub const BEARERS: &str = "BEARERS";
    /// Hash: interface name to the index of the interface that VRRP sockets are bound to in its place.
    pub const BOUND_TO: &str = "BOUND_TO";
    /// Hash: [`AddressKey`](crate::guard::AddressKey) of addresses whose owners are watched.
    pub const WATCHED: &str = "WATCHED";
    /// Hash: [`AnsweredKey`](crate::watch::AnsweredKey) to [`Answer`](crate::watch::Answer).
    pub const ANSWERED: &str = "ANSWERED";
    /// LRU hash: [`Source`](crate::watch::Source) to until when it has used up what it may.
    pub const SOURCES: &str = "SOURCES";
    /// Ring buffer of [`FrameReport`](crate::watch::FrameReport), each with its frame's bytes.
    pub const FRAMES: &str = "FRAMES";
    /// Per-CPU array of `u64`, indexed by [`Counter`](crate::counters::Counter).
    pub const COUNTERS: &str = "COUNTERS";
    /// Per-CPU array of `u64`: what each rule of the operator's own has passed, at its place
    /// ([`Passes`](crate::guard::Passes)).
    pub const OWN_RULES: &str = "OWN_RULES";
}

/// Names of constants that the loader sets.
pub mod constants {
    /// The guard's rules: [`TABLE`](crate::guard::rules::TABLE), or another one of its length.
    pub const GUARD_RULES: &str = "GUARD_RULES";
    /// A [`Devices`](crate::shunt::Devices).
    pub const DEVICES: &str = "DEVICES";
    /// [`Credentials`](crate::tasks::Credentials).
    pub const CREDENTIALS: &str = "CREDENTIALS";
    /// A `u64`: cookie of vipshield's network namespace (`SO_NETNS_COOKIE`).
    pub const NETWORK_NAMESPACE: &str = "NETWORK_NAMESPACE";
}

/// Names of the programs, as the eBPF object spells them.
pub mod programs {
    /// Socket filter for a guarded daemon's rtnetlink monitor sockets, reached from [`GUARD_STUB`].
    pub const NETLINK_GUARD: &str = "netlink_guard";
    /// Socket filter on a guarded daemon's rtnetlink monitor sockets: all that is there of [`NETLINK_GUARD`].
    pub const GUARD_STUB: &str = "guard_stub";
    /// Socket filter on a guarded daemon's rtnetlink command sockets: all that is there of
    /// [`NETLINK_INTENT`].
    pub const INTENT_STUB: &str = "intent_stub";
    /// Socket filter on vipshield's own rtnetlink monitor: throws shunts.
    pub const LINK_SENTRY: &str = "link_sentry";
    /// kprobe on `inet6_rtm_newaddr`: notes which IPv6 address a task asks for.
    pub const ADDRESS_SENTRY: &str = "address_sentry";
    /// kprobe on `br_add_if`: throws shunts earlier.
    pub const BRIDGE_JOIN_SENTRY: &str = "bridge_join_sentry";
    /// kprobe on `br_del_if`: throws shunts earlier.
    pub const BRIDGE_CUT_SENTRY: &str = "bridge_cut_sentry";
    /// kprobe on `ovs_vport_cmd_del`: notes who deletes a port.
    pub const OVS_REQUEST_SENTRY: &str = "ovs_request_sentry";
    /// kprobe on `ovs_vport_get_stats`: throws shunts earlier still.
    pub const OVS_LOOK_SENTRY: &str = "ovs_look_sentry";
    /// kprobe on `ovs_vport_del`: throws shunts earlier.
    pub const OVS_CUT_SENTRY: &str = "ovs_cut_sentry";
    /// TC classifier on a NIC's ingress.
    pub const SHUNT_INGRESS: &str = "shunt_ingress";
    /// TC classifier on a bearer's egress.
    pub const SHUNT_EGRESS: &str = "shunt_egress";
    /// TC classifier on the ingress of a NIC and its bearer: watches, and answers neighbours.
    pub const WATCH_INGRESS: &str = "watch_ingress";
    /// TC classifier on the egress of a NIC and its bearer: watches.
    pub const WATCH_EGRESS: &str = "watch_egress";
    /// Socket filter for a guarded daemon's rtnetlink command sockets, reached from [`INTENT_STUB`].
    pub const NETLINK_INTENT: &str = "netlink_intent";
    /// `setsockopt(2)` of the processes in a guarded daemon's control group.
    pub const SOCKET_OPENING: &str = "socket_opening";
    /// Raw tracepoint `sched_process_exec`.
    pub const TASK_EXEC: &str = "task_exec";
    /// Raw tracepoint `sched_process_fork`.
    pub const TASK_FORK: &str = "task_fork";
    /// Raw tracepoint `sched_process_exit`.
    pub const TASK_EXIT: &str = "task_exit";
    /// Raw tracepoint `signal_generate`.
    pub const TASK_SIGNAL: &str = "task_signal";
}
