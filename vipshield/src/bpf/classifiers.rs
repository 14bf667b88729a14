//! TC programs on interfaces: tcx where the kernel has it (Linux 6.6), a clsact qdisc before.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io, mem,
};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, SchedClassifierLinkId, TcAttachOptions, TcError},
    },
};
use log::debug;
use nix::{
    ifaddrs::getifaddrs,
    net::if_::{InterfaceFlags, if_indextoname, if_nameindex, if_nametoindex},
};
use vipshield_common::programs;

use super::{BpfError, has_tcx};

/// A program, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Classifier {
    WatchIngress,
    WatchEgress,
    ShuntIngress,
    ShuntEgress,
}

impl Classifier {
    const ALL: [Self; 4] =
        [Self::WatchIngress, Self::WatchEgress, Self::ShuntIngress, Self::ShuntEgress];

    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::WatchIngress => programs::WATCH_INGRESS,
            Self::WatchEgress => programs::WATCH_EGRESS,
            Self::ShuntIngress => programs::SHUNT_INGRESS,
            Self::ShuntEgress => programs::SHUNT_EGRESS,
        }
    }

    const fn attach_type(self) -> TcAttachType {
        match self {
            Self::WatchIngress | Self::ShuntIngress => TcAttachType::Ingress,
            Self::WatchEgress | Self::ShuntEgress => TcAttachType::Egress,
        }
    }

    /// The watch sees a frame before anybody redirects it; the shunt comes behind what others put
    /// first.
    fn options(self, tcx: bool) -> TcAttachOptions {
        let (order, priority) = match self {
            Self::WatchIngress | Self::WatchEgress => (LinkOrder::first(), 5251),
            Self::ShuntIngress | Self::ShuntEgress => (LinkOrder::last(), 5252),
        };
        if tcx {
            TcAttachOptions::TcxOrder(order)
        } else {
            TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() })
        }
    }
}

/// Which programs are where.
#[derive(Default)]
pub(super) struct Classifiers {
    attached: HashMap<(u32, Classifier), SchedClassifierLinkId>,
    /// Those of them that are of no use any more.
    loose: BTreeSet<(u32, Classifier)>,
    /// A clsact may be of no use any more.
    untidy: bool,
    /// Interfaces that had no clsact before.
    clsacts: HashSet<u32>,
}

impl Classifiers {
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        for which in Classifier::ALL {
            let program = which.program();
            classifier(ebpf, program)?.load().map_err(|error| BpfError::of(program, error))?;
        }
        Ok(Self::default())
    }

    /// Takes the classifiers of a vipshield that is gone off all interfaces, and what they were put on over:
    /// a clsact that goes costs packets. Where the kernel has tcx there is nothing of it.
    pub(super) fn adopt(&mut self) -> io::Result<()> {
        self.clsacts.extend(sweep_classifiers()?);
        Ok(())
    }

    /// Puts a program on an interface, unless it is there.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        ifindex: u32,
        which: Classifier,
    ) -> Result<(), BpfError> {
        self.loose.remove(&(ifindex, which));
        if self.attached.contains_key(&(ifindex, which)) {
            return Ok(());
        }
        let program = which.program();
        let name = if_indextoname(ifindex)
            .map_err(|errno| BpfError::Interface { ifindex, source: errno.into() })?;
        let name = name.to_string_lossy();
        let failed = |error| BpfError::of(program, error);
        let tcx = tcx();
        if !tcx && add_clsact(&name).map_err(|error| failed(error.into()))? {
            self.clsacts.insert(ifindex);
            self.untidy = true;
        }
        let link = classifier(ebpf, program)?
            .attach_with_options(&name, which.attach_type(), which.options(tcx))
            .map_err(failed)?;
        self.attached.insert((ifindex, which), link);
        Ok(())
    }

    /// A program is of no use on an interface any more, if it is there. It stays until it is [taken
    /// off](Self::take_off): what it acts on is in maps.
    pub(super) fn detach(&mut self, ifindex: u32, which: Classifier) {
        if self.attached.contains_key(&(ifindex, which)) {
            self.loose.insert((ifindex, which));
        }
    }

    /// Takes one that is of no use off its interface. False: there is none, nor a clsact that may be unused.
    ///
    /// The kernel holds rtnl while it waits for those that may run the program (`tcx_uninstall` in
    /// `kernel/bpf/tcx.c`): tens of milliseconds in which nobody can change a link, an address or a route.
    pub(super) fn take_off(&mut self, ebpf: &mut Ebpf) -> bool {
        let Some((ifindex, which)) = self.loose.pop_first() else {
            return mem::take(&mut self.untidy);
        };
        self.untidy = true;
        if let Some(link) = self.attached.remove(&(ifindex, which)) {
            // Where the interface is gone, so is what was attached to it.
            let detached = classifier(ebpf, which.program()).map(|program| program.detach(link));
            if let Ok(Err(error)) = detached {
                debug!("{} of interface {ifindex}: {error}", which.program());
            }
        }
        true
    }

    /// The interfaces on which clsact was made and nothing is attached. Each is named once.
    ///
    /// A qdisc that comes or goes has the kernel deactivate an interface that is up: for a moment
    /// it drops what is sent (`qdisc_graft`, `net/sched/sch_api.c`). So as long as it is not
    /// `the_end`, an interface that is up keeps its clsact.
    pub(super) fn unused_clsacts(&mut self, the_end: bool) -> io::Result<Vec<u32>> {
        if self.clsacts.is_empty() {
            return Ok(Vec::new());
        }
        let up = if the_end { HashSet::new() } else { interfaces_that_are_up()? };
        let attached = &self.attached;
        let used = |at: u32| up.contains(&at) || attached.keys().any(|(ifindex, _)| *ifindex == at);
        Ok(self.clsacts.extract_if(|ifindex| !used(*ifindex)).collect())
    }
}

/// Takes the classifiers of a vipshield that was killed off all interfaces; where the kernel has
/// tcx they ended with it. Returns the interfaces they were on.
pub fn sweep_classifiers() -> io::Result<Vec<u32>> {
    if tcx() {
        return Ok(Vec::new());
    }
    let mut swept = Vec::new();
    for interface in &if_nameindex()? {
        let name = interface.name().to_string_lossy();
        for which in Classifier::ALL {
            let detached = tc::qdisc_detach_program(&name, which.attach_type(), which.program());
            if detached.is_ok() && !swept.contains(&interface.index()) {
                swept.push(interface.index());
            }
        }
    }
    Ok(swept)
}

/// Whether the kernel has tcx, whose links end with their owner (Linux 6.6). Where that cannot be asked,
/// nothing can be attached either.
fn tcx() -> bool {
    has_tcx().unwrap_or(false)
}

fn interfaces_that_are_up() -> io::Result<HashSet<u32>> {
    Ok(getifaddrs()?
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| if_nametoindex(interface.interface_name.as_str()).ok())
        .collect())
}

/// Makes room for classifiers. False: there was some.
fn add_clsact(name: &str) -> Result<bool, TcError> {
    match tc::qdisc_add_clsact(name) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {
            Ok(false)
        }
        added => added.map(|()| true),
    }
}

fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, BpfError> {
    ebpf.program_mut(name)
        .ok_or(BpfError::Missing(name))?
        .try_into()
        .map_err(|error| BpfError::of(name, error))
}
