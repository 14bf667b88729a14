//! The shunt, on the running kernel: frames put on a wire, and where they come out.

use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use libtest_mimic::Failed;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use vipshield::{
    engine::{Shunt, Trigger},
    net::{Carrier, Monitor},
};
use vipshield_common::{counters::Counter, shunt::HANDLER_GOES_NS};

use super::{
    check,
    namespace::{PATIENCE, Stage, monotonic_ns},
    tap::Tap,
};

/// For experiments (IEEE 802).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const TAGGED: [u8; 6] = [0x81, 0x00, 0x00, 0x07, 0x88, 0xb5];
/// The highest priority, and no VLAN.
const PRIORITY: [u8; 6] = [0x81, 0x00, 0xe0, 0x00, 0x88, 0xb5];
const BROADCAST: [u8; 6] = [0xff; 6];
const SOMEBODY: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x77];
/// How long a shunt lasts here: for longer than it takes to look, on a busy machine too.
const LASTS: Duration = Duration::from_secs(3);
/// Over before anybody looks, were it to count.
const SHORT: Duration = Duration::from_millis(250);

pub(crate) const fn shunt(bearer: u32, trigger: Trigger) -> Shunt {
    Shunt { bearer, trigger, lasts: LASTS, over: false }
}

/// A frame of no known kind, from nobody known.
fn put(tap: &Tap, to: [u8; 6], kind: &[u8], word: &str) -> Result<(), Failed> {
    let mut frame = [&to, [0x52, 0x54, 0, 0, 0, 0x99].as_slice(), kind, word.as_bytes()].concat();
    frame.resize(60, 0);
    tap.put(&frame)
}

pub(crate) struct Wires {
    pub(crate) stage: Stage,
    /// Keeps the sentry at its post.
    pub(crate) _monitor: Socket,
    pub(crate) nic: u32,
    pub(crate) bridge: u32,
}

/// A NIC and a bridge of its hardware address; `slow` forwards nothing for half a minute.
pub(crate) fn lay(slow: bool) -> Result<Wires, Failed> {
    let mut stage = bridged_stage(slow)?;
    let mut monitor = Socket::new(NETLINK_ROUTE)?;
    monitor.bind_auto()?;
    monitor.add_membership(1)?;
    stage.programs.post_sentry(&monitor)?;
    let (nic, bridge) = (stage.index("nic")?, stage.index("br0")?);
    Ok(Wires { stage, _monitor: monitor, nic, bridge })
}

fn bridged_stage(slow: bool) -> Result<Stage, Failed> {
    let stage = Stage::new()?;
    stage.add_bridge("br0")?;
    let mac = Tap::at("nic")?.mac;
    let text: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    super::carry::ip(&format!("link set br0 address {}", text.join(":")))?;
    super::carry::ip(&format!("link set br0 type bridge stp_state {}", u8::from(slow)))?;
    stage.set_up("br0", true)?;
    Ok(stage)
}

/// On a busy machine a NIC may join before its shunt is laid.
pub(crate) fn laid_late() -> Result<(), Failed> {
    let mut stage = bridged_stage(true)?;
    let monitor = stage.block_on(async { Monitor::open(stage.handle()) })?;
    stage.programs.post_sentry(&monitor)?;
    let (nic, bridge) = (stage.index("nic")?, stage.index("br0")?);
    let (wire, inside) = (Tap::at("peer")?, Tap::at("br0")?);
    stage.set_master("nic", Some("br0"))?;
    stage.set_shunt(nic, Some(shunt(bridge, Trigger::Join)))?;
    put(&inside, SOMEBODY, &ETHERTYPE, "before")?;
    check(!wire.hears("before")?, "what has happened throws nothing")?;
    monitor.ask_for_link(nic)?;
    put(&inside, SOMEBODY, &ETHERTYPE, "out")?;
    check(wire.hears("out")?, "what the kernel says of it when it is asked does")?;
    put(&wire, inside.mac, &ETHERTYPE, "in")?;
    check(inside.hears("in")?, "in both directions")?;

    stage.set_master("nic", None)?;
    stage.set_shunt(nic, None)?;
    stage.set_shunt(nic, Some(shunt(bridge, Trigger::Join)))?;
    monitor.ask_for_link(nic)?;
    put(&inside, SOMEBODY, &ETHERTYPE, "free")?;
    check(!wire.hears("free")?, "a NIC that is free stays so")
}

/// A port that joins a bridge which does not forward yet: what is for this node goes to the
/// bridge, what the bridge sends goes out, and after its time the shunt is over.
pub(crate) fn joined() -> Result<(), Failed> {
    let Wires { mut stage, _monitor, nic, bridge } = lay(true)?;
    let laid = shunt(bridge, Trigger::Join);
    stage.set_shunt(nic, Some(laid))?;
    let (wire, inside) = (Tap::at("peer")?, Tap::at("br0")?);
    put(&wire, inside.mac, &ETHERTYPE, "early")?;
    check(!inside.hears("early")?, "nothing is shunted while the NIC is free")?;

    stage.set_master("nic", Some("br0"))?;
    // The engine does so once it knows.
    stage.set_shunt(nic, Some(Shunt { trigger: Trigger::Cut, ..laid }))?;
    put(&wire, inside.mac, &ETHERTYPE, "unicast in")?;
    check(inside.hears("unicast in")?, "a frame for this node reaches the bridge")?;
    put(&wire, BROADCAST, &ETHERTYPE, "broadcast in")?;
    check(inside.hears("broadcast in")?, "a broadcast reaches the bridge")?;
    put(&inside, SOMEBODY, &ETHERTYPE, "unicast out")?;
    check(wire.hears("unicast out")?, "a frame from the bridge goes out")?;
    put(&inside, BROADCAST, &ETHERTYPE, "broadcast out")?;
    check(wire.hears("broadcast out")?, "a broadcast from the bridge goes out")?;
    put(&wire, inside.mac, &PRIORITY, "priority in")?;
    check(inside.hears("priority in")?, "a tag without a VLAN is none")?;
    put(&inside, SOMEBODY, &PRIORITY, "priority out")?;
    check(wire.hears("priority out")?, "in both directions")?;
    put(&wire, SOMEBODY, &ETHERTYPE, "for others")?;
    check(!inside.hears("for others")?, "a frame for others is left to the bridge")?;
    put(&wire, inside.mac, &TAGGED, "tagged in")?;
    check(!inside.hears("tagged in")?, "a tagged frame is left to the bridge")?;
    put(&inside, SOMEBODY, &TAGGED, "tagged out")?;
    check(!wire.hears("tagged out")?, "in both directions")?;
    for counter in [Counter::ShuntsThrown, Counter::ShuntedIn, Counter::ShuntedOut] {
        check(stage.count(counter)? > 0, format!("{} was counted", counter.name()))?;
    }

    let patience = monotonic_ns()? + u64::try_from(PATIENCE.as_nanos())?;
    loop {
        put(&inside, SOMEBODY, &ETHERTYPE, "late")?;
        if !wire.hears("late")? {
            break;
        }
        check(monotonic_ns()? < patience, "the shunt ends by itself")?;
    }
    put(&wire, inside.mac, &ETHERTYPE, "late in")?;
    check(!inside.hears("late in")?, "in both directions")
}

/// It lasts as long as it was said to, unless it is over before.
pub(crate) fn lasting() -> Result<(), Failed> {
    let Wires { mut stage, _monitor, nic, bridge } = lay(true)?;
    let laid = shunt(bridge, Trigger::Join);
    stage.set_shunt(nic, Some(laid))?;
    let (wire, inside) = (Tap::at("peer")?, Tap::at("br0")?);
    stage.set_master("nic", Some("br0"))?;
    let joined = monotonic_ns()?;
    // What it lasts when the NIC leaves does not matter.
    let port = Shunt { lasts: SHORT, ..shunt(bridge, Trigger::Cut) };
    stage.set_shunt(nic, Some(port))?;
    let longer = joined + 2 * u64::try_from(SHORT.as_nanos())?;
    while monotonic_ns()? < longer {
        put(&inside, SOMEBODY, &ETHERTYPE, "out")?;
        check(wire.hears("out")?, "a frame from the bridge goes out")?;
    }
    stage.set_shunt(nic, Some(Shunt { over: true, ..port }))?;
    put(&inside, SOMEBODY, &ETHERTYPE, "over")?;
    check(!wire.hears("over")?, "it ends when it is over")?;
    put(&wire, inside.mac, &ETHERTYPE, "over in")?;
    check(!inside.hears("over in")?, "in both directions")
}

/// A port that leaves: what the bridge sends goes out nevertheless, until the engine has something
/// better; what arrives is the NIC's.
pub(crate) fn cut() -> Result<(), Failed> {
    let Wires { mut stage, _monitor, nic, bridge } = lay(false)?;
    stage.set_master("nic", Some("br0"))?;
    stage.set_shunt(nic, Some(shunt(bridge, Trigger::Cut)))?;
    let (wire, inside) = (Tap::at("peer")?, Tap::at("br0")?);
    check(stage.count(Counter::ShuntsThrown)? == 0, "a port that stays one is not shunted")?;
    stage.set_master("nic", None)?;
    // Disabled, a port no longer, without a master.
    check(stage.count(Counter::ShuntsThrown)? >= 3, "it is thrown by each word of it")?;
    put(&inside, SOMEBODY, &ETHERTYPE, "unicast out")?;
    check(wire.hears("unicast out")?, "a frame from the bridge goes out")?;
    let patience = monotonic_ns()? + 100 * HANDLER_GOES_NS;
    loop {
        put(&wire, inside.mac, &ETHERTYPE, "unicast in")?;
        if !inside.hears("unicast in")? {
            break;
        }
        check(monotonic_ns()? < patience, "what arrives is the NIC's own some moments later")?;
    }
    put(&inside, SOMEBODY, &ETHERTYPE, "and still out")?;
    check(wire.hears("and still out")?, "a frame from the bridge goes out for longer")?;
    stage.set_shunt(nic, None)?;
    put(&inside, SOMEBODY, &ETHERTYPE, "after")?;
    check(!wire.hears("after")?, "it ends when it is taken up")
}

/// A Linux bridge says of a port that leaves first that it is disabled.
pub(crate) fn disabled() -> Result<(), Failed> {
    let Wires { mut stage, _monitor, nic, bridge } = lay(false)?;
    stage.set_master("nic", Some("br0"))?;
    stage.set_shunt(nic, Some(shunt(bridge, Trigger::Cut)))?;
    let (wire, inside) = (Tap::at("peer")?, Tap::at("br0")?);
    super::carry::ip("link set nic type bridge_slave cost 7")?;
    check(stage.count(Counter::ShuntsThrown)? == 0, "a port that forwards is not shunted")?;
    // By the bridge itself: what is done to the link has the port looked at anew before it is said.
    super::carry::said("bridge", "link set dev nic state 0")?;
    check(stage.count(Counter::ShuntsThrown)? != 0, "it is thrown")?;
    put(&inside, SOMEBODY, &ETHERTYPE, "unicast out")?;
    check(wire.hears("unicast out")?, "a frame from the bridge goes out")?;
    put(&wire, inside.mac, &ETHERTYPE, "unicast in")?;
    check(inside.hears("unicast in")?, "and one for this node reaches the bridge")
}

/// A port without a carrier, and one that was taken down, are disabled too: nothing gets through them.
pub(crate) fn without_carrier() -> Result<(), Failed> {
    let Wires { mut stage, _monitor, nic, bridge } = lay(false)?;
    stage.set_master("nic", Some("br0"))?;
    stage.set_shunt(nic, Some(shunt(bridge, Trigger::Cut)))?;
    let state = |wanted: &str| {
        let wanted = format!("bridge_slave state {wanted}");
        stage.wait_for(|_| Ok(super::carry::said("ip", "-d link show nic")?.contains(&wanted)))
    };
    stage.set_up("peer", false)?;
    state("disabled")?;
    check(stage.count(Counter::ShuntsThrown)? == 0, "not without a carrier")?;
    stage.set_up("peer", true)?;
    state("forwarding")?;
    stage.set_up("nic", false)?;
    state("disabled")?;
    check(stage.count(Counter::ShuntsThrown)? == 0, "nor when it was taken down")
}

/// Two NICs are ports of one bridge: when the shunt of one is taken up, that of the other stays.
pub(crate) fn two_on_a_bridge() -> Result<(), Failed> {
    for first_goes in [true, false] {
        let Wires { mut stage, _monitor, nic, bridge } = lay(false)?;
        super::carry::ip("link add second type veth peer beyond")?;
        stage.set_up("beyond", true)?;
        stage.set_up("second", true)?;
        let laid = shunt(bridge, Trigger::Cut);
        for port in ["nic", "second"] {
            stage.set_master(port, Some("br0"))?;
            stage.set_shunt(stage.index(port)?, Some(laid))?;
        }
        let (goes, stays, beyond) = if first_goes {
            (nic, "second", "beyond")
        } else {
            (stage.index("second")?, "nic", "peer")
        };
        stage.set_shunt(goes, None)?;
        let (inside, wire) = (Tap::at("br0")?, Tap::at(beyond)?);
        stage.set_master(stays, None)?;
        put(&inside, SOMEBODY, &ETHERTYPE, "out")?;
        check(wire.hears("out")?, format!("a frame from the bridge goes out through {stays}"))?;
    }
    Ok(())
}

/// What cannot be copied past the bridge goes its usual way, and is not said to have been taken.
pub(crate) fn not_copied() -> Result<(), Failed> {
    let Wires { mut stage, _monitor: monitor, nic, bridge } = lay(true)?;
    stage.set_shunt(nic, Some(shunt(bridge, Trigger::Join)))?;
    stage.set_master("nic", Some("br0"))?;
    // Nothing tells that the bridge is gone.
    drop(monitor);
    stage.delete_link("br0")?;
    let before = stage.count(Counter::ShuntedIn)?;
    let (wire, inside) = (Tap::at("peer")?, Tap::at("nic")?);
    put(&wire, BROADCAST, &ETHERTYPE, "broadcast in")?;
    check(inside.hears("broadcast in")?, "a broadcast reaches the NIC")?;
    check(stage.count(Counter::ShuntsFailed)? > 0, "that it was not copied is counted")?;
    check(stage.count(Counter::ShuntedIn)? == before, "and not as a frame that was")
}

/// A NIC that joins is shunted though vipshield's monitor is told nothing.
pub(crate) fn joined_unannounced() -> Result<(), Failed> {
    let Wires { mut stage, _monitor: monitor, nic, bridge } = lay(true)?;
    drop(monitor);
    stage.set_shunt(nic, Some(shunt(bridge, Trigger::Join)))?;
    let (wire, inside) = (Tap::at("peer")?, Tap::at("br0")?);
    stage.set_master("nic", Some("br0"))?;
    check(stage.count(Counter::ShuntsThrown)? == 1, "it was thrown, once")?;
    put(&wire, inside.mac, &ETHERTYPE, "unicast in")?;
    check(inside.hears("unicast in")?, "a frame for this node reaches the bridge")
}

/// An interface of the same index that joins and leaves in another network namespace is not the NIC.
pub(crate) fn elsewhere() -> Result<(), Failed> {
    let Wires { mut stage, _monitor, nic, bridge } = lay(false)?;
    for trigger in [Trigger::Join, Trigger::Cut] {
        stage.set_shunt(nic, Some(shunt(bridge, trigger)))?;
        let other = std::thread::spawn(move || {
            let there = lay(false)?;
            there.stage.set_master("nic", Some("br0"))?;
            there.stage.set_master("nic", None)?;
            check(there.nic == nic, "it has the same index")
        });
        other.join().map_err(|_| "the other thread panicked")??;
        check(stage.count(Counter::ShuntsThrown)? == 0, format!("nothing is thrown: {trigger:?}"))?;
    }
    Ok(())
}

/// A NIC that leaves is shunted though vipshield's monitor is told nothing.
pub(crate) fn cut_unannounced() -> Result<(), Failed> {
    let Wires { mut stage, _monitor: monitor, nic, bridge } = lay(false)?;
    drop(monitor);
    stage.set_master("nic", Some("br0"))?;
    stage.set_shunt(nic, Some(shunt(bridge, Trigger::Cut)))?;
    let (wire, inside) = (Tap::at("peer")?, Tap::at("br0")?);
    stage.set_master("nic", None)?;
    check(stage.count(Counter::ShuntsThrown)? == 1, "it was thrown, once")?;
    put(&inside, SOMEBODY, &ETHERTYPE, "unicast out")?;
    check(wire.hears("unicast out")?, "a frame from the bridge goes out")
}

/// How many programs are on the NIC's ingress.
pub(crate) fn attached() -> Result<usize, Failed> {
    if let Ok((_, programs)) = SchedClassifier::query_tcx("nic", TcAttachType::Ingress) {
        return Ok(programs.len());
    }
    // No tcx: before Linux 6.6.
    let filters = super::carry::said("tc", "filter show dev nic ingress")?;
    Ok(filters.lines().filter(|line| line.contains(" handle ")).count())
}

/// A bearer that is gone by the time: nothing of the half that was laid stays.
pub(crate) fn half_laid() -> Result<(), Failed> {
    let Wires { mut stage, _monitor, nic, bridge } = lay(false)?;
    let before = super::carry::said("tc", "qdisc show dev nic")?;
    stage.delete_link("br0")?;
    let laid = shunt(bridge, Trigger::Join);
    check(stage.set_shunt(nic, Some(laid)).is_err(), "there is no such bearer")?;
    check(attached()? != 0, "half of it was laid")?;
    stage.set_shunt(nic, None)?;
    stage.tidy()?;
    let unused = stage.programs.unused_clsacts(true)?;
    stage.block_on(Carrier::new(stage.handle()).release_clsact(&unused))?;
    check(attached()? == 0, "no program is on the NIC")?;
    check(super::carry::said("tc", "qdisc show dev nic")? == before, "nor anything that held it")
}

/// A bearer that is taken down swallows what reaches it: the shunt is over at once.
pub(crate) fn bearer_down() -> Result<(), Failed> {
    let Wires { mut stage, _monitor, nic, bridge } = lay(true)?;
    stage.set_shunt(nic, Some(shunt(bridge, Trigger::Join)))?;
    stage.set_master("nic", Some("br0"))?;
    let (wire, inside) = (Tap::at("peer")?, Tap::at("br0")?);
    put(&wire, inside.mac, &ETHERTYPE, "in")?;
    check(inside.hears("in")?, "it was thrown")?;
    stage.set_up("br0", false)?;
    let before = stage.count(Counter::ShuntedIn)?;
    put(&wire, inside.mac, &ETHERTYPE, "down")?;
    check(!inside.hears("down")?, "nothing reaches a bridge that is down")?;
    check(stage.count(Counter::ShuntedIn)? == before, "and nothing is sent there")
}
