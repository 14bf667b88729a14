//! The thread that puts TC programs on interfaces and takes them off them, where the kernel has tcx.
//!
//! The kernel waits each time for all that may run what was there before, and holds rtnl meanwhile
//! (`tcx_link_attach` and `tcx_link_release` in `kernel/bpf/tcx.c`, `tcx_entry_sync` in `include/net/tcx.h`):
//! 10 to 25 ms. What is seen and heard meanwhile cannot wait for that, so the loop does not.

use std::{
    collections::HashMap,
    future::pending,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use tokio::sync::mpsc as heard;

use super::{BpfError, classifiers::Classifier};

/// `BPF_LINK_CREATE` of `enum bpf_cmd` (`include/uapi/linux/bpf.h`, as all that follows).
const LINK_CREATE: libc::c_long = 28;
/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` of `enum bpf_attach_type`.
const INGRESS: u32 = 46;
const EGRESS: u32 = 47;
/// `BPF_F_BEFORE` and `BPF_F_AFTER`: with no other program named, before and behind all.
const BEFORE: u32 = 1 << 3;
const AFTER: u32 = 1 << 4;

/// An interface, and what is on it.
pub(super) type Place = (u32, Classifier);

/// Which of the requests that are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What the thread has done.
#[derive(Debug)]
pub struct Placed {
    pub(super) ticket: Ticket,
    /// These are in place now.
    pub(super) put: Vec<Place>,
    /// How it ended.
    pub(super) done: Result<(), BpfError>,
}

enum Request {
    Put(Vec<Place>),
    TakeOff(Place),
}

/// See the [module](self). Dropped, it takes everything off.
pub(super) struct Placer {
    requests: Option<mpsc::Sender<(Ticket, Request)>>,
    thread: Option<JoinHandle<()>>,
    last: Ticket,
}

/// What comes back from the thread, where there is one.
#[derive(Debug)]
pub struct Placings(Option<heard::UnboundedReceiver<Placed>>);

impl Placings {
    /// Of no thread.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// What was done; waits for it, for ever where there is no thread. Cancel safe.
    ///
    /// # Errors
    /// The thread has ended, and with it all that it had put on interfaces: whoever goes on now neither sees who
    /// owns what nor keeps frames on their way.
    pub async fn next(&mut self) -> Result<Placed, BpfError> {
        match &mut self.0 {
            Some(thread) => thread.recv().await.ok_or_else(gone),
            None => pending().await,
        }
    }
}

fn gone() -> BpfError {
    BpfError::Placer(io::Error::other("the thread has ended"))
}

impl Placer {
    /// Puts these programs where it is told to.
    pub(super) fn start(programs: HashMap<Classifier, OwnedFd>) -> io::Result<(Self, Placings)> {
        let (requests, asked) = mpsc::channel();
        let (say, placings) = heard::unbounded_channel();
        let hands = Hands { programs, links: HashMap::new() };
        let working = thread::Builder::new().name("placer".to_owned());
        let thread = working.spawn(move || hands.work(&asked, &say))?;
        let placer = Self { requests: Some(requests), thread: Some(thread), last: Ticket(0) };
        Ok((placer, Placings(Some(placings))))
    }

    /// Asks for programs to be put on interfaces, in this order, until one cannot be.
    pub(super) fn put(&mut self, places: Vec<Place>) -> Result<Ticket, BpfError> {
        self.ask(Request::Put(places))
    }

    /// Asks for one to be taken off.
    pub(super) fn take_off(&mut self, place: Place) -> Result<Ticket, BpfError> {
        self.ask(Request::TakeOff(place))
    }

    fn ask(&mut self, request: Request) -> Result<Ticket, BpfError> {
        self.last = Ticket(self.last.0.wrapping_add(1));
        let sent = self.requests.as_ref().map(|requests| requests.send((self.last, request)));
        match sent {
            Some(Ok(())) => Ok(self.last),
            _ => Err(gone()),
        }
    }
}

impl Drop for Placer {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, what it had was taken off by that.
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Hands {
    programs: HashMap<Classifier, OwnedFd>,
    /// A program is in place for as long as its link is open.
    links: HashMap<Place, OwnedFd>,
}

impl Hands {
    fn work(
        mut self,
        asked: &mpsc::Receiver<(Ticket, Request)>,
        say: &heard::UnboundedSender<Placed>,
    ) {
        while let Ok((ticket, request)) = asked.recv() {
            let mut put = Vec::new();
            let done = match request {
                Request::Put(places) => self.put(places, &mut put),
                Request::TakeOff(place) => {
                    drop(self.links.remove(&place));
                    Ok(())
                }
            };
            if say.send(Placed { ticket, put, done }).is_err() {
                break;
            }
        }
    }

    fn put(&mut self, places: Vec<Place>, put: &mut Vec<Place>) -> Result<(), BpfError> {
        for place @ (ifindex, which) in places {
            if !self.links.contains_key(&place) {
                let name = which.program();
                let program = self.programs.get(&which).ok_or(BpfError::Missing(name))?;
                let link = link(program.as_fd(), ifindex, which);
                let link =
                    link.map_err(|source| BpfError::Place { program: name, ifindex, source });
                self.links.insert(place, link?);
            }
            put.push(place);
        }
        Ok(())
    }
}

/// `link_create` of `union bpf_attr`, as far as it is about tcx. With no other program named.
#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    kind: u32,
    flags: u32,
    relative: u32,
    _padding: u32,
    expected_revision: u64,
}

/// Puts a program on an interface. aya does so with what it has of the program alone, which is the loop's.
fn link(program: BorrowedFd<'_>, ifindex: u32, which: Classifier) -> io::Result<OwnedFd> {
    let asked = LinkCreate {
        program: u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?,
        ifindex,
        kind: if which.is_ingress() { INGRESS } else { EGRESS },
        flags: if which.is_first() { BEFORE } else { AFTER },
        relative: 0,
        _padding: 0,
        expected_revision: 0,
    };
    // SAFETY: the kernel reads as much of it as it is told, and writes nothing.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, LINK_CREATE, &raw const asked, size_of::<LinkCreate>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for this, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_asked_is_answered_in_its_order() {
        let (mut placer, mut placings) = Placer::start(HashMap::new()).unwrap();
        let put = placer.put(vec![(1, Classifier::ShuntIngress)]).unwrap();
        let taken = placer.take_off((1, Classifier::ShuntIngress)).unwrap();
        let first = placings.next().await.unwrap();
        assert_eq!(first.ticket, put);
        assert!(matches!(first.done, Err(BpfError::Missing(_))), "{first:?}");
        assert!(first.put.is_empty(), "{first:?}");
        assert_eq!(placings.next().await.unwrap().ticket, taken);
    }

    #[tokio::test]
    async fn a_thread_that_has_ended_is_an_error_and_no_silence() {
        let (mut placer, mut placings) = Placer::start(HashMap::new()).unwrap();
        drop(placer.requests.take());
        let error = placings.next().await.unwrap_err();
        assert!(error.to_string().contains("has ended"), "{error}");
    }
}
