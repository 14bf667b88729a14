//! A program under keepalived's name that may do nothing: whatever it asks for, the kernel refuses.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr as InetAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use rtnetlink::AddressMessageBuilder;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::clock;
use crate::lab::Node;
use crate::process::{Daemon, Program, copied};
use crate::rtnl;

/// `nobody`.
const UID: &str = "65534";
/// How often it asks.
const PAUSE: Duration = Duration::from_millis(50);
/// `RTNLGRP_LINK` and `RTNLGRP_IPV4_IFADDR` (`linux/rtnetlink.h`).
const GROUPS: [u32; 2] = [1, 5];

/// What it does.
#[derive(Debug, Default, clap::Args)]
pub struct Pretence {
    /// Ask for the removal of these addresses, over and over.
    #[arg(long, value_name = "IFINDEX=IP/LENGTH")]
    pub delete: Vec<Wish>,
    /// Ask for these addresses.
    #[arg(long, value_name = "IFINDEX=IP/LENGTH")]
    pub add: Vec<Wish>,
    /// Have so many monitor sockets.
    #[arg(long, default_value_t = 1)]
    pub monitors: usize,
    /// Have so many more descriptors of the last of them, or as many as may be had.
    #[arg(long, default_value_t = 0)]
    pub duplicates: usize,
    /// Bind these abstract names.
    #[arg(long)]
    pub claim: Vec<String>,
    /// Ask whoever has this abstract name to hand over, before all else.
    #[arg(long)]
    pub take_over: Option<String>,
    /// Listen at this address.
    #[arg(long)]
    pub listen: Option<InetAddr>,
}

/// An address on an interface.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Interface index.
    pub ifindex: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix.
    pub length: u8,
}

impl FromStr for Wish {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (ifindex, address) = text.split_once('=').context("no =")?;
        let (ip, length) = address.split_once('/').context("no /")?;
        Ok(Self { ifindex: ifindex.parse()?, ip: ip.parse()?, length: length.parse()? })
    }
}

impl std::fmt::Display for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}/{}", self.ifindex, self.ip, self.length)
    }
}

/// Who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guise {
    /// `nobody`, without capabilities.
    Nobody,
    /// Root with all capabilities, in a user namespace of its own.
    OwnUserNamespace,
}

impl Guise {
    /// The programs that make one of whoever runs them.
    #[must_use]
    pub fn wrapper(self) -> &'static [&'static str] {
        const NOBODY: &[&str] =
            &["setpriv", "--reuid", UID, "--regid", UID, "--clear-groups", "--"];
        const OWN: &[&str] =
            &["setpriv", "--reuid", UID, "--regid", UID, "--clear-groups", "--", "unshare", "-Ur"];
        match self {
            Self::Nobody => NOBODY,
            Self::OwnUserNamespace => OWN,
        }
    }
}

/// A copy of `program` that everybody may run, below the node's directory.
///
/// # Errors
/// When it cannot be copied.
pub fn copy(program: &Path, node: &Node, name: &str) -> Result<PathBuf> {
    let directory = node.dir.join("pretender");
    std::fs::create_dir_all(&directory).context("the pretender's directory")?;
    let copy = directory.join(name);
    // What runs cannot be written.
    if !copy.exists() {
        copied(program, &copy)?;
    }
    Ok(copy)
}

/// Start one on a node, and wait until it has its sockets.
///
/// # Errors
/// When it cannot be started.
pub async fn start(
    guise: Guise,
    pretence: &[String],
    node: &Node,
    token: &str,
    epoch: std::time::Instant,
) -> Result<Daemon> {
    let own = std::env::current_exe().context("the path of this program")?;
    let program = copy(&own, node, "keepalived")?;
    let (first, rest) = guise.wrapper().split_first().context("no wrapper")?;
    let log = node.dir.join(format!("pretender-{guise:?}.log").to_lowercase());
    let daemon = Program::new("pretender", first, token)
        .args(rest)
        .arg(program)
        .arg("pretend")
        .args(pretence)
        .inside(&node.host.namespace)
        .start(&log, epoch)?;
    let ready = clock::until("a pretender", Duration::from_secs(5), async || {
        Ok(daemon.lines().iter().any(|line| line.text == "ready").then_some(()))
    })
    .await;
    ready.with_context(|| format!("it said {:?}", daemon.lines()))?;
    Ok(daemon)
}

/// Be one, until killed.
///
/// # Errors
/// When its sockets cannot be had.
pub fn be_one(pretence: &Pretence) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("PR_SET_PDEATHSIG")?;
    let mut monitors = Vec::new();
    for _ in 0..pretence.monitors {
        let mut monitor = Socket::new(NETLINK_ROUTE).context("a monitor socket")?;
        monitor.bind_auto().context("a monitor socket")?;
        for group in GROUPS {
            monitor.add_membership(group).context("a monitor socket")?;
        }
        monitors.push(monitor);
    }
    let mut claimed = Vec::new();
    for name in &pretence.claim {
        let address = UnixAddr::from_abstract_name(name).context("a name")?;
        claimed.push(UnixListener::bind_addr(&address).context("a name")?);
    }
    let listener = pretence.listen.map(TcpListener::bind).transpose().context("a port")?;
    let mut command = Socket::new(NETLINK_ROUTE).context("a command socket")?;
    command.bind_auto().context("a command socket")?;
    let mut duplicates: Vec<OwnedFd> = Vec::new();
    if let Some(last) = monitors.last() {
        for _ in 0..pretence.duplicates {
            let Ok(duplicate) = last.as_fd().try_clone_to_owned() else { break };
            duplicates.push(duplicate);
        }
    }
    if let Some(name) = &pretence.take_over {
        say(&format!("take over: {}", take_over(name)?))?;
    }
    say("ready")?;
    let mut sequence = 0;
    loop {
        for (wishes, add) in [(&pretence.delete, false), (&pretence.add, true)] {
            for wish in wishes {
                sequence += 1;
                let answer = ask(&command, *wish, add, sequence)?;
                say(&format!("{} {wish}: {answer}", if add { "add" } else { "delete" }))?;
            }
        }
        clock::nap(PAUSE);
        if monitors.is_empty() && claimed.is_empty() && listener.is_none() {
            bail!("nothing to pretend");
        }
    }
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("standard output")
}

/// Ask as another vipshield does; what it is answered.
fn take_over(name: &str) -> Result<String> {
    let address = UnixAddr::from_abstract_name(name).context("a name")?;
    let mut stream = UnixStream::connect_addr(&address).context("connecting")?;
    writeln!(stream, r#"{{"request":"hand_over"}}"#).context("asking")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("listening")?;
    Ok(answer.trim().to_owned())
}

/// Ask as keepalived does; the errno of the answer.
fn ask(command: &Socket, wish: Wish, add: bool, sequence: u32) -> Result<i32> {
    let address: AddressMessage = match wish.ip {
        IpAddr::V4(ip) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(wish.ifindex)
            .address(ip, wish.length)
            .build(),
        IpAddr::V6(ip) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
            .index(wish.ifindex)
            .address(ip, wish.length)
            .build(),
    };
    let (message, flags) = if add {
        (RouteNetlinkMessage::NewAddress(address), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
    } else {
        (RouteNetlinkMessage::DelAddress(address), NLM_F_ACK)
    };
    let bytes = rtnl::serialized(message, flags, sequence);
    command.send_to(&bytes, &SocketAddr::new(0, 0), 0).context("a request")?;
    let (answer, _) = command.recv_from_full().context("an answer")?;
    let code = rtnl::messages(&answer).find_map(|message| match message.payload {
        NetlinkPayload::Error(error) => Some(error.code.map_or(0, std::num::NonZero::get)),
        _ => None,
    });
    code.context("no answer")
}
