//! TC programs on interfaces: tcx where the kernel has it (Linux 6.6), a clsact qdisc before.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io, mem,
    os::fd::AsFd,
};

use aya::{
    Ebpf,
    programs::{
        SchedClassifier, TcAttachType,
        tc::{self, NlOptions, SchedClassifierLinkId, TcAttachOptions, TcError},
    },
};
use log::debug;
use nix::{
    ifaddrs::getifaddrs,
    net::if_::{InterfaceFlags, if_indextoname, if_nameindex, if_nametoindex},
};
use vipshield_common::programs;

use super::{
    BpfError, has_tcx,
    placer::{Place, Placed, Placer, Placings, Ticket},
};

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

    pub(super) const fn is_ingress(self) -> bool {
        matches!(self, Self::WatchIngress | Self::ShuntIngress)
    }

    /// The watch sees a frame before anybody redirects it; the shunt comes behind what others put
    /// first.
    pub(super) const fn is_first(self) -> bool {
        matches!(self, Self::WatchIngress | Self::WatchEgress)
    }

    /// Its place without tcx.
    const fn priority(self) -> u16 {
        if self.is_first() { 5251 } else { 5252 }
    }
}

/// How programs are put on interfaces.
enum Way {
    /// By a thread, for the kernel has whoever does so wait.
    Tcx(Placer),
    /// In a clsact qdisc, at once.
    Clsact,
}

/// Which programs are where.
pub(super) struct Classifiers {
    way: Way,
    attached: HashMap<Place, Option<SchedClassifierLinkId>>,
    /// Those that are being put on.
    coming: HashMap<Ticket, Vec<Place>>,
    /// Those that are being taken off.
    leaving: HashMap<Ticket, Place>,
    /// Those that are of no use any more.
    loose: BTreeSet<Place>,
    /// A clsact may be of no use any more.
    untidy: bool,
    /// Interfaces that had no clsact before.
    clsacts: HashSet<u32>,
}

impl Classifiers {
    /// With what is said of those that are put in place by a thread; nothing ever is where there is none.
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<(Self, Placings), BpfError> {
        let mut programs = HashMap::new();
        for which in Classifier::ALL {
            let name = which.program();
            let program = classifier(ebpf, name)?;
            program.load().map_err(|error| BpfError::of(name, error))?;
            let fd = program.fd().map_err(|error| BpfError::of(name, error))?;
            let fd = fd.as_fd().try_clone_to_owned().map_err(BpfError::Placer)?;
            programs.insert(which, fd);
        }
        let (way, placings) = if tcx() {
            let (placer, placings) = Placer::start(programs).map_err(BpfError::Placer)?;
            (Way::Tcx(placer), placings)
        } else {
            (Way::Clsact, Placings::none())
        };
        let classifiers = Self {
            way,
            attached: HashMap::new(),
            coming: HashMap::new(),
            leaving: HashMap::new(),
            loose: BTreeSet::new(),
            untidy: false,
            clsacts: HashSet::new(),
        };
        Ok((classifiers, placings))
    }

    /// Takes the classifiers of a vipshield that is gone off all interfaces, and what they were put on over:
    /// a clsact that goes costs packets. Where the kernel has tcx there is nothing of it.
    pub(super) fn adopt(&mut self) -> io::Result<()> {
        self.clsacts.extend(sweep_classifiers()?);
        Ok(())
    }

    /// Puts programs on interfaces, unless they are there. None: they are there now.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        places: &[Place],
    ) -> Result<Option<Ticket>, BpfError> {
        self.loose.retain(|place| !places.contains(place));
        let leaves = |place: &Place| self.leaving.values().any(|leaving| leaving == place);
        let is_there = |place: &Place| self.attached.contains_key(place) && !leaves(place);
        let missing: Vec<Place> = places.iter().filter(|place| !is_there(place)).copied().collect();
        if missing.is_empty() {
            return Ok(None);
        }
        match &mut self.way {
            Way::Tcx(thread) => {
                let ticket = thread.put(missing.clone())?;
                self.coming.insert(ticket, missing);
                Ok(Some(ticket))
            }
            Way::Clsact => {
                for place in missing {
                    self.put(ebpf, place)?;
                }
                Ok(None)
            }
        }
    }

    /// The thread has done something. None: nobody waits to hear of it.
    pub(super) fn placed(&mut self, placed: Placed) -> Option<(Ticket, Result<(), BpfError>)> {
        let Placed { ticket, put, done } = placed;
        if let Some(place) = self.leaving.remove(&ticket) {
            self.attached.remove(&place);
            self.untidy = true;
            return None;
        }
        self.coming.remove(&ticket);
        self.attached.extend(put.into_iter().map(|place| (place, None)));
        Some((ticket, done))
    }

    /// Without tcx.
    fn put(&mut self, ebpf: &mut Ebpf, place @ (ifindex, which): Place) -> Result<(), BpfError> {
        let program = which.program();
        let name = if_indextoname(ifindex)
            .map_err(|errno| BpfError::Interface { ifindex, source: errno.into() })?;
        let name = name.to_string_lossy();
        let failed = |error| BpfError::of(program, error);
        if add_clsact(&name).map_err(|error| failed(error.into()))? {
            self.clsacts.insert(ifindex);
            self.untidy = true;
        }
        let options = NlOptions { priority: which.priority(), ..NlOptions::default() };
        let link = classifier(ebpf, program)?
            .attach_with_options(&name, which.attach_type(), TcAttachOptions::Netlink(options))
            .map_err(failed)?;
        self.attached.insert(place, Some(link));
        Ok(())
    }

    /// A program is of no use on an interface any more, if it is there. It stays until it is [taken
    /// off](Self::take_off): what it acts on is in maps.
    pub(super) fn detach(&mut self, ifindex: u32, which: Classifier) {
        let place = (ifindex, which);
        if self.attached.contains_key(&place)
            || self.coming.values().flatten().any(|it| *it == place)
        {
            self.loose.insert(place);
        }
    }

    /// Takes one that is of no use off its interface. False: there is none, nor a clsact that may be unused.
    ///
    /// The kernel holds rtnl while it waits for those that may run the program (`tcx_uninstall` in
    /// `kernel/bpf/tcx.c`): tens of milliseconds in which nobody can change a link, an address or a route.
    pub(super) fn take_off(&mut self, ebpf: &mut Ebpf) -> Result<bool, BpfError> {
        let Some(place @ (_, which)) = self.loose.pop_first() else {
            return Ok(mem::take(&mut self.untidy));
        };
        match (&mut self.way, self.attached.get_mut(&place).and_then(Option::take)) {
            (Way::Tcx(thread), _) => {
                let ticket = thread.take_off(place)?;
                self.leaving.insert(ticket, place);
            }
            (Way::Clsact, link) => {
                self.attached.remove(&place);
                self.untidy = true;
                // Where the interface is gone, so is what was attached to it.
                let detached = classifier(ebpf, which.program());
                let detached = detached.map(|program| link.map(|link| program.detach(link)));
                if let Ok(Some(Err(error))) = detached {
                    debug!("{} of interface {}: {error}", which.program(), place.0);
                }
            }
        }
        Ok(true)
    }

    /// Whether the thread has something to do.
    pub(super) fn is_at_work(&self) -> bool {
        !self.coming.is_empty() || !self.leaving.is_empty()
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
