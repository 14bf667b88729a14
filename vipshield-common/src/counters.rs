//! Event counters: every path through an eBPF program bumps one, and each rule of the guard's has its own.

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident => $name:literal, $help:literal;)*) => {
        /// Index into the counters' map.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Counter { $(#[doc = $help] $(#[$doc])* $variant),* }

        impl Counter {
            /// All of them, in the map's order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name, as in `vipshield status` and, with a prefix, in Prometheus.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What it counts, in a sentence.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help),* }
            }
        }
    };
}

counters! {
    // The guard's rules, in their order (crate::guard::rules::RULES).
    PassedMalformed => "guard_passed_malformed",
        "Netlink messages passed: too short to be understood.";
    PassedUnrelated => "guard_passed_unrelated",
        "Netlink messages passed: of a type the guard does not look at.";
    PassedDump => "guard_passed_dump",
        "Netlink messages passed: part of a dump the daemon asked for.";
    PassedStale => "guard_passed_stale_heartbeat",
        "Netlink messages passed: vipshield's heartbeat was stale (fail open).";
    PassedUnknownSocket => "guard_passed_unknown_socket",
        "Netlink messages passed: the socket is not in the guard's table.";
    PassedAnswer => "guard_passed_answer",
        "Netlink messages passed: answers to a request on this very socket (resync among them).";
    PassedOwnRule => "guard_passed_own_rule",
        "Netlink messages passed: a rule of the configuration's says so.";
    WithheldNameConflict => "guard_withheld_name_conflict",
        "Netlink messages withheld: another interface has a guarded NIC's name.";
    PassedOther => "guard_passed_other_interface",
        "Netlink messages passed: about an interface that is not guarded.";
    WithheldRoute => "guard_withheld_route_dropped",
        "Netlink messages withheld: the kernel dropped a route of keepalived's with its source.";
    PassedRoute => "guard_passed_route",
        "Netlink messages passed: the kernel dropped a route of keepalived's with an interface that failed.";
    WithheldBridgePort => "guard_withheld_bridge_port",
        "Netlink messages withheld: a bridge's word about its port.";
    PassedRemoved => "guard_passed_nic_removed",
        "Netlink messages passed: a guarded NIC is gone.";
    WithheldRename => "guard_withheld_rename",
        "Netlink messages withheld: a guarded NIC was renamed.";
    WithheldRenameHeld => "guard_withheld_rename_held",
        "Netlink messages withheld: a guarded NIC was renamed, and what was said of it before is withheld.";
    PassedRename => "guard_passed_rename_allowed",
        "Netlink messages passed: a guarded NIC that failed was renamed.";
    WithheldAdminDown => "guard_withheld_admin_down",
        "Netlink messages withheld: a guarded NIC was taken down.";
    WithheldAdminDownHeld => "guard_withheld_admin_down_held",
        "Netlink messages withheld: a guarded NIC was taken down, and what was said of it before is withheld.";
    PassedAdminDown => "guard_passed_admin_down_allowed",
        "Netlink messages passed: a guarded NIC that failed was taken down.";
    WithheldCarrier => "guard_withheld_carrier_loss",
        "Netlink messages withheld: a guarded NIC lost its carrier within a transition.";
    WithheldCarrierHeld => "guard_withheld_carrier_loss_held",
        "Netlink messages withheld: a guarded NIC that comes up has no carrier yet.";
    PassedCarrier => "guard_passed_carrier_loss_allowed",
        "Netlink messages passed: a guarded NIC lost its carrier outside a transition.";
    PassedLinkWorks => "guard_passed_link_works",
        "Netlink messages passed: a guarded NIC works.";
    PassedOwnRequest => "guard_passed_own_request",
        "Netlink messages passed: changes that guarded daemons asked for themselves.";
    PassedReplay => "guard_passed_replay",
        "Netlink messages passed: a removal that vipshield has the kernel say again.";
    WithheldReplay => "guard_withheld_replay_begins",
        "Netlink messages withheld: an address came to be gone at once, so that the kernel says that again.";
    WithheldOwnAddress => "guard_withheld_own_address",
        "Netlink messages withheld: an address of vipshield's own came or went.";
    WithheldAddress => "guard_withheld_address_removal",
        "Netlink messages withheld: an address left a guarded NIC.";
    WithheldKnown => "guard_withheld_known_address",
        "Netlink messages withheld: an address came back of which the daemon was not told that it had left.";
    PassedAddress => "guard_passed_address",
        "Netlink messages passed: an address of a guarded NIC.";
    ReportsLost => "guard_reports_lost",
        "Reports of withheld messages lost: the ring buffer was full.";
    ShuntsThrown => "shunts_thrown",
        "Times that a NIC joined or left a bridge and was joined to its bearer past it.";
    ShuntedIn => "shunted_in",
        "Frames taken from a NIC straight to its bearer.";
    ShuntedOut => "shunted_out",
        "Frames taken from a bearer straight to its NIC.";
    ShuntsFailed => "shunts_failed",
        "Group-addressed frames that could not be copied past a bridge: they went their usual way only.";
    WatchedArp => "watch_arp",
        "Frames reported: ARP that claims a watched address.";
    WatchedNd => "watch_nd",
        "Frames reported: neighbour discovery that claims a watched address.";
    WatchedVrrp => "watch_vrrp",
        "Frames reported: VRRP adverts.";
    WatchUnrelated => "watch_unrelated",
        "ARP and neighbour discovery about addresses that are not watched.";
    WatchFragment => "watch_fragments",
        "Fragments of VRRP adverts: not reported.";
    WatchMalformedArp => "watch_malformed_arp",
        "Malformed frames: ARP that is cut off, or not about IPv4 over Ethernet.";
    WatchMalformedIpv4 => "watch_malformed_ipv4",
        "Malformed frames: VRRP in IPv4 with a wrong version or length.";
    WatchMalformedIpv6 => "watch_malformed_ipv6",
        "Malformed frames: VRRP or neighbour discovery in IPv6 with a wrong version or length.";
    WatchMalformedNd => "watch_malformed_nd",
        "Malformed frames: neighbour discovery that is too short, from afar, or of an unknown code.";
    WatchMalformedVrrp => "watch_malformed_vrrp",
        "Malformed frames: VRRP shorter than its header.";
    WatchStale => "watch_stale_heartbeat",
        "Frames not reported: vipshield's heartbeat was stale.";
    WatchLimited => "watch_limited",
        "Frames not reported: their source sends too many.";
    WatchNewcomers => "watch_newcomers",
        "Frames not reported: too many sources that were never heard before.";
    FramesLost => "watch_frames_lost",
        "Frames not reported: the ring buffer was full.";
    AnsweredArp => "answered_arp",
        "ARP requests answered for an address that is carried.";
    AnsweredNd => "answered_nd",
        "Neighbour solicitations answered for an address that is carried.";
    AnswersRefused => "answers_refused",
        "Questions about a carried address not answered: malformed, tagged, or in its own name.";
    AnswersFailed => "answers_failed",
        "Answers about a carried address that the kernel did not send.";
    IntentRefused => "intent_refused",
        "Requests of a daemon for an address, or for its removal, that the kernel refused.";
    IntentGranted => "intent_granted",
        "Requests of a daemon for an IPv6 address, or for its removal, that the kernel granted.";
    IntentKept => "intent_kept",
        "Requests of a daemon for an IPv4 address, or for its removal, that the kernel granted.";
    IntentDenied => "intent_denied",
        "Requests about addresses that the kernel refused for want of privilege, or never looked at: no intent.";
    IntentUnrelated => "intent_unrelated",
        "Other answers that a daemon got on its command sockets.";
    IntentsLate => "intents_late",
        "Requests that found the ring buffer full: their addresses' last words are read from their map.";
    IntentsLost => "intents_lost",
        "Requests lost: there is no room for the last words on so many addresses.";
    OpeningsBound => "openings_bound",
        "VRRP sockets bound to what bears the NIC's traffic, while nothing or a bridge has the NIC's name.";
    OpeningsSending => "openings_sending",
        "VRRP sockets that asked to send multicast through the NIC and do through what they are bound to.";
    OpeningsPassed => "openings_passed",
        "Other choices of an interface for a VRRP socket.";
    TaskEvents => "task_events",
        "Guarded daemons seen to exec, fork, exit or reload, and tools seen to start.";
    TaskEventsLost => "task_events_lost",
        "Events of tasks lost: the ring buffer was full.";
    TasksIgnored => "tasks_ignored",
        "Other tasks seen to exec, fork or exit.";
}
