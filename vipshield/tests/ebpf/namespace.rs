//! The stage of one case: a network namespace with a NIC, its peer, and a monitor socket that may
//! carry the guard.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    time::Duration,
};

use futures_util::TryStreamExt as _;
use libtest_mimic::Failed;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{setsockopt, sockopt::ReceiveTimeout},
    sys::time::TimeVal,
    time::{ClockId, clock_gettime},
};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth};
use tokio::runtime::Runtime;
use vipshield::{
    bpf::{self, Programs},
    daemons,
    engine::{Address, LetPass, Shunt, Withheld},
    net::Replay,
};
use vipshield_common::{
    counters::Counter,
    guard::{
        GuardedSocket,
        rules::{Entry, RULES},
    },
};

use super::seeded;

/// However slow the machine, the kernel has said by then what it has to say.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Questions that mark an end are numbered from here: an event bears the number of the request
/// that caused it, and those are small.
const FENCES: u32 = 0x4000_0000;
const DUMP: u32 = 0x3fff_ffff;

/// A message that reached the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Link { name: String, running: bool, sequence: u32 },
    LinkGone(u32),
    Address(IpAddr),
    AddressGone(IpAddr),
}

pub(crate) struct Stage {
    pub(crate) programs: Programs,
    /// Stands for the daemon's monitor socket.
    pub(crate) monitor: Socket,
    /// Stands for the daemon's command socket.
    command: Handle,
    pub(crate) command_port: u32,
    replay: Replay,
    /// Somebody else.
    other: Handle,
    fence: u32,
    runtime: Runtime,
}

/// The next message. What has a time limit is not resumed after the process was stopped
/// (`signal(7)`).
pub(crate) fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    loop {
        match socket.recv_from_full() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received.map(|(bytes, _)| bytes),
        }
    }
}

pub(crate) fn runtime() -> Result<Runtime, Failed> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// `CLOCK_MONOTONIC`.
pub(crate) fn monotonic_ns() -> Result<u64, Failed> {
    Ok(u64::try_from(Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_nanos())?)
}

/// A request handle and the netlink port its requests come from.
fn connect(runtime: &Runtime) -> Result<(Handle, u32), Failed> {
    use netlink_sys::AsyncSocket as _;
    let _inside = runtime.enter();
    let (mut connection, handle, _) = rtnetlink::new_connection()?;
    let port = connection.socket_mut().socket_mut().bind_auto()?.port_number();
    runtime.spawn(connection);
    Ok((handle, port))
}

impl Stage {
    /// Moves this thread to a network namespace of its own; each case has its own thread.
    pub(crate) fn new() -> Result<Self, Failed> {
        Self::with_rules(&seeded::table())
    }

    /// The same with these rules for the guard.
    pub(crate) fn with_rules(rules: &[Entry; RULES.len()]) -> Result<Self, Failed> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let runtime = runtime()?;
        let (other, _) = connect(&runtime)?;
        let (command, command_port) = connect(&runtime)?;
        let replay = {
            let _inside = runtime.enter();
            Replay::open(other.clone())?
        };
        let mut monitor = Socket::new(NETLINK_ROUTE)?;
        monitor.bind_auto()?;
        let programs = {
            let _inside = runtime.enter();
            Programs::load_with(&[], rules)?
        };
        let stage = Self {
            programs,
            monitor,
            command,
            command_port,
            replay,
            other,
            fence: FENCES,
            runtime,
        };
        stage.runtime.block_on(async {
            stage.other.link().add(LinkVeth::new("nic", "peer").build()).execute().await
        })?;
        stage.set_up("peer", true)?;
        stage.set_up("nic", true)?;
        stage.wait_for_carriers(2)?;
        for group in [1, 5, 9] {
            stage.monitor.add_membership(group)?;
        }
        let patience = TimeVal::new(i64::try_from(seeded::patience().as_secs())?, 0);
        setsockopt(&stage.socket(), ReceiveTimeout, &patience)?;
        Ok(stage)
    }

    /// The kernel notices a carrier some time after both ends are up, and gives the interface a
    /// link-local address then, with its routes, some seconds later: both are over for so many interfaces.
    pub(crate) fn wait_for_carriers(&self, links: usize) -> Result<(), Failed> {
        let mut watcher = Socket::new(NETLINK_ROUTE)?;
        watcher.bind_auto()?;
        watcher.add_membership(1)?;
        watcher.add_membership(9)?;
        let patience = TimeVal::new(i64::try_from(PATIENCE.as_secs())?, 0);
        setsockopt(&watcher.as_fd(), ReceiveTimeout, &patience)?;
        loop {
            let (running, settled) = self.runtime.block_on(async {
                let links: Vec<LinkMessage> =
                    self.other.link().get().execute().try_collect().await?;
                let addresses: Vec<AddressMessage> =
                    self.other.address().get().execute().try_collect().await?;
                let running = links
                    .iter()
                    .filter(|link| link.header.flags.contains(LinkFlags::Running))
                    .count();
                let settled = addresses
                    .iter()
                    .filter(|address| {
                        address.header.family == AddressFamily::Inet6
                            && !address.header.flags.contains(
                                netlink_packet_route::address::AddressHeaderFlags::Tentative,
                            )
                    })
                    .count();
                Ok::<_, Failed>((running, settled))
            })?;
            if running >= links && settled >= links {
                return Ok(());
            }
            receive(&watcher)?;
        }
    }

    /// A handle for requests in the stage's namespace.
    pub(crate) fn handle(&self) -> Handle {
        self.other.clone()
    }

    /// Lays the shunt of a NIC.
    pub(crate) fn set_shunt(&mut self, nic: u32, shunt: Option<Shunt>) -> Result<(), Failed> {
        self.programs.set_shunt(nic, shunt)?;
        Ok(self.runtime.block_on(self.programs.all_placed())?)
    }

    /// Watches an interface, or does so no longer.
    pub(crate) fn set_watch(&mut self, ifindex: u32, wanted: bool) -> Result<(), Failed> {
        self.programs.set_watch(ifindex, wanted)?;
        Ok(self.runtime.block_on(self.programs.all_placed())?)
    }

    /// Takes off all that is of no use.
    pub(crate) fn tidy(&mut self) -> Result<(), Failed> {
        Ok(self.runtime.block_on(self.programs.tidy_all())?)
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }

    pub(crate) fn cookie(&self) -> Result<u64, Failed> {
        Ok(daemons::cookie(self.socket())?)
    }

    /// Puts the guard on the monitor socket, alive, with this policy for the NIC.
    pub(crate) fn arm(&mut self, withhold: u32) -> Result<(), Failed> {
        let nic = self.index("nic")?;
        self.programs.beat(monotonic_ns()? + u64::try_from(PATIENCE.as_nanos())?)?;
        self.programs.set_policy(nic, "nic", withhold, &LetPass::new())?;
        let cookie = self.cookie()?;
        let port = daemons::port(self.socket())?;
        let entry = GuardedSocket { port, replay_port: self.replay.port };
        self.programs.set_command_ports(&[self.command_port])?;
        self.programs.guard(self.monitor.as_fd(), cookie, entry)?;
        Ok(())
    }

    /// The programs of another vipshield.
    pub(crate) fn load_another(&self) -> Result<Programs, Failed> {
        let _inside = self.runtime.enter();
        Ok(Programs::load(&[])?)
    }

    /// What reads reports.
    pub(crate) fn parts(&mut self) -> (&Runtime, &mut Programs) {
        (&self.runtime, &mut self.programs)
    }

    /// Has what the kernel refuses on this socket reported.
    pub(crate) fn listen(&mut self, command: &Socket) -> Result<(), Failed> {
        let entry = GuardedSocket { port: daemons::port(command)?, replay_port: 0 };
        Ok(self.programs.listen(command, daemons::cookie(command)?, entry)?)
    }

    /// Has the kernel say again that an address is gone.
    pub(crate) fn replay(&self, name: &str, address: Address) -> Result<(), Failed> {
        let nic = self.index(name)?;
        self.block_on(self.replay.removal(nic, address))?;
        Ok(())
    }

    /// Has the kernel say that an address is there, and that vipshield's own are not.
    pub(crate) fn show(&self, name: &str, address: Option<Address>) -> Result<(), Failed> {
        let nic = self.index(name)?;
        Ok(self.block_on(self.replay.show(nic, address))?)
    }

    pub(crate) fn index(&self, name: &str) -> Result<u32, Failed> {
        self.runtime.block_on(async {
            let mut links = self.other.link().get().match_name(name.to_owned()).execute();
            let link = links.try_next().await?.ok_or("no such link")?;
            Ok(link.header.index)
        })
    }

    pub(crate) fn add_address(&self, link: &str, address: &str) -> Result<(), Failed> {
        let (ip, prefix_len) = parse(address)?;
        let index = self.index(link)?;
        self.runtime.block_on(async {
            let mut add = self.other.address().add(index, ip, prefix_len);
            // No duplicate address detection: its end is one message more.
            add.message_mut()
                .attributes
                .push(AddressAttribute::Flags(netlink_packet_route::address::AddressFlags::Nodad));
            Ok(add.execute().await?)
        })
    }

    pub(crate) fn delete_address(&self, link: &str, address: &str) -> Result<(), Failed> {
        let index = self.index(link)?;
        delete(&self.runtime, &self.other, index, address)
    }

    /// Adds and deletes an address from the daemon's command socket.
    pub(crate) fn daemon_asks(&self, link: &str, address: &str) -> Result<(), Failed> {
        let (ip, prefix_len) = parse(address)?;
        let index = self.index(link)?;
        self.runtime.block_on(self.command.address().add(index, ip, prefix_len).execute())?;
        delete(&self.runtime, &self.command, index, address)
    }

    fn change(&self, change: impl FnOnce(u32) -> LinkMessage, name: &str) -> Result<(), Failed> {
        let index = self.index(name)?;
        Ok(self.runtime.block_on(self.other.link().change(change(index)).execute())?)
    }

    pub(crate) fn set_up(&self, name: &str, up: bool) -> Result<(), Failed> {
        self.change(
            |index| {
                let link = LinkUnspec::new_with_index(index);
                if up { link.up().build() } else { link.down().build() }
            },
            name,
        )
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), Failed> {
        self.change(|index| LinkUnspec::new_with_index(index).name(to.to_owned()).build(), from)
    }

    pub(crate) fn set_master(&self, port: &str, bridge: Option<&str>) -> Result<(), Failed> {
        let master = bridge.map(|bridge| self.index(bridge)).transpose()?.unwrap_or(0);
        self.change(|index| LinkUnspec::new_with_index(index).controller(master).build(), port)
    }

    pub(crate) fn add_bridge(&self, name: &str) -> Result<(), Failed> {
        let bridge = LinkBridge::new(name).build();
        Ok(self.runtime.block_on(self.other.link().add(bridge).execute())?)
    }

    pub(crate) fn delete_link(&self, name: &str) -> Result<(), Failed> {
        let index = self.index(name)?;
        Ok(self.runtime.block_on(self.other.link().del(index).execute())?)
    }

    /// Everything that has reached the daemon so far. The kernel delivers an answer behind all it
    /// said before, so asking a question marks the end.
    pub(crate) fn seen(&mut self) -> Result<Vec<Seen>, Failed> {
        self.fence += 1;
        let fence = self.fence;
        let peer = self.index("lo")?;
        self.ask(peer, fence, 0)?;
        let mut seen = Vec::new();
        loop {
            for (sequence, message) in self.receive()? {
                if sequence == fence {
                    return Ok(seen);
                }
                seen.extend(message);
            }
        }
    }

    /// Reads on until something like this has reached the daemon.
    pub(crate) fn wait_until(&self, wanted: impl Fn(&Seen) -> bool) -> Result<(), Failed> {
        loop {
            if self.receive()?.iter().any(|(_, seen)| seen.as_ref().is_some_and(&wanted)) {
                return Ok(());
            }
        }
    }

    /// Waits until the guard has counted at least one of these.
    pub(crate) fn wait_for_counter(&mut self, counter: Counter) -> Result<(), Failed> {
        self.wait_for(|stage| Ok(stage.count(counter)? > 0)).map_err(|error| {
            let nonzero = self.programs.counters().unwrap_or_default();
            let nonzero: Vec<String> = nonzero
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(counter, count)| format!("{} {count}", counter.name()))
                .collect();
            let what = error.message().unwrap_or_default();
            format!("{what}: {} stays 0; {}", counter.name(), nonzero.join(", ")).into()
        })
    }

    /// Until then its routes are said to be down.
    pub(crate) fn wait_until_running(&self, name: &str) -> Result<(), Failed> {
        self.wait_for(|stage| Ok(stage.link(name)?.header.flags.contains(LinkFlags::Running)))
    }

    fn link(&self, name: &str) -> Result<LinkMessage, Failed> {
        let index = self.index(name)?;
        let mut links = self.other.link().get().match_index(index).execute();
        Ok(self.block_on(links.try_next())?.ok_or("no such link")?)
    }

    pub(crate) fn wait_for(
        &self,
        condition: impl Fn(&Self) -> Result<bool, Failed>,
    ) -> Result<(), Failed> {
        let patience = monotonic_ns()? + u64::try_from(seeded::patience().as_nanos())?;
        while !condition(self)? {
            if monotonic_ns()? > patience {
                return Err("waited in vain".into());
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// What the daemon's own dump of all links brings.
    pub(crate) fn dump(&mut self) -> Result<Vec<Seen>, Failed> {
        self.ask(0, DUMP, NLM_F_DUMP)?;
        let mut seen = Vec::new();
        loop {
            let bytes = receive(&self.monitor)?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)?;
                rest = rest
                    .get((message.header.length as usize).next_multiple_of(4)..)
                    .unwrap_or_default();
                if message.header.sequence_number == DUMP {
                    match message.payload {
                        NetlinkPayload::Done(_) => return Ok(seen),
                        NetlinkPayload::InnerMessage(inner) => seen.extend(understand(DUMP, inner)),
                        _ => {}
                    }
                }
            }
        }
    }

    pub(crate) fn resync(&self, name: &str) -> Result<(), Failed> {
        Ok(daemons::resync_link(self.socket(), self.index(name)?)?)
    }

    fn ask(&self, index: u32, sequence: u32, flags: u16) -> Result<(), Failed> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.monitor.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        Ok(())
    }

    fn receive(&self) -> Result<Vec<(u32, Option<Seen>)>, Failed> {
        let bytes = receive(&self.monitor)?;
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes)?;
        let sequence = message.header.sequence_number;
        Ok(vec![match message.payload {
            NetlinkPayload::InnerMessage(inner) => (sequence, understand(sequence, inner)),
            _ => (sequence, None),
        }])
    }

    /// The reports of the guard that are there.
    pub(crate) fn reports(&mut self) -> Result<Vec<Withheld>, Failed> {
        let mut reports = Vec::new();
        let Self { runtime, programs, .. } = self;
        runtime.block_on(async {
            let mut take = |record: &[u8]| reports.extend(bpf::withheld(record));
            tokio::time::timeout(seeded::patience(), programs.reports.read(&mut take)).await??;
            // They come in batches.
            let now = Duration::ZERO;
            while let Ok(read) = tokio::time::timeout(now, programs.reports.read(&mut take)).await {
                read?;
            }
            Ok::<(), Failed>(())
        })?;
        Ok(reports)
    }

    pub(crate) fn count(&self, wanted: Counter) -> Result<u64, Failed> {
        let counters = self.programs.counters()?;
        Ok(counters.iter().find(|(counter, _)| *counter == wanted).map_or(0, |(_, n)| *n))
    }

    pub(crate) fn counted(&self, counter: Counter, expected: u64) -> Result<(), Failed> {
        // What a bridge passes may be run a little later, on another processor; if it never is, that is said below.
        let _ = self.wait_for(|stage| Ok(stage.count(counter)? >= expected));
        let count = self.count(counter)?;
        if count == expected {
            return Ok(());
        }
        Err(format!("{} is {count}, not {expected}", counter.name()).into())
    }
}

/// Drop-all, as keepalived has it on its send sockets.
pub(crate) fn attach_classic_filter(socket: &Socket) -> io::Result<()> {
    let mut code = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: 1, filter: code.as_mut_ptr() };
    // SAFETY: the kernel reads the program, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn understand(sequence: u32, message: RouteNetlinkMessage) -> Option<Seen> {
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(Seen::Link {
            name: link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            })?,
            running: link.header.flags.contains(LinkFlags::Up | LinkFlags::Running),
            sequence,
        }),
        RouteNetlinkMessage::DelLink(link) => Some(Seen::LinkGone(link.header.index)),
        RouteNetlinkMessage::NewAddress(address) => Some(Seen::Address(ip(&address)?)),
        RouteNetlinkMessage::DelAddress(address) => Some(Seen::AddressGone(ip(&address)?)),
        _ => None,
    }
}

fn ip(message: &AddressMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    })
}

fn parse(address: &str) -> Result<(IpAddr, u8), Failed> {
    let (ip, prefix_len) = address.split_once('/').ok_or("an address has a prefix")?;
    Ok((ip.parse()?, prefix_len.parse()?))
}

fn delete(runtime: &Runtime, handle: &Handle, index: u32, address: &str) -> Result<(), Failed> {
    let (ip, prefix_len) = parse(address)?;
    let message = handle.address().add(index, ip, prefix_len).message_mut().clone();
    Ok(runtime.block_on(handle.address().del(message).execute())?)
}
