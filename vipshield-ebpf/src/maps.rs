//! The maps, and the little that every program does with them.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};
use vipshield_common::{
    counters::Counter,
    filters,
    guard::{self, AddressKey, GuardedSocket, Held, HeldAddress, IfName, NicPolicy},
    intent::{IntentReport, WordKey},
    shunt::{ShuntEnd, Thrown},
    tasks::TASK_COMM_LEN,
    watch::{Answer, AnsweredKey, CAPTURE_MAX, FrameReport, MAX_ADDRESSES, MAX_SOURCES, Source},
};

use crate::answer::Exchange;

/// Guarded NICs, own addresses and sockets are few; the limits only bound memory.
const MAX_NICS: u32 = 64;
const MAX_OWN_ADDRESSES: u32 = 256;
const MAX_SOCKETS: u32 = 256;
const MAX_COMMAND_PORTS: u32 = 256;
/// A few addresses of each NIC, for each socket.
const MAX_ADDRESSES_HELD: u32 = 4096;
/// Tasks that change addresses at the same time.
const MAX_ANNOUNCED: u32 = 256;
/// Tasks that delete ports: Open vSwitch has one.
const MAX_DELETING: u32 = 16;
/// One is replayed at a time.
const MAX_REPLAYED: u32 = 16;
const MAX_TASK_NAMES: u32 = 32;
/// A NIC, and every bridge that it was a port of.
const MAX_BEARERS: u32 = 1024;
/// About 900 withheld messages in flight: a bind makes a few dozen.
const REPORTS_BYTES: u32 = 64 * 1024;
/// About 250 requests in flight: a daemon makes one for each of its addresses. What finds no room is in
/// [`LAST_WORDS`].
const INTENTS_BYTES: u32 = 16 * 1024;
/// Twice as many addresses as the engine remembers.
const MAX_LAST_WORDS: u32 = 8192;
const TASKS_BYTES: u32 = 16 * 1024;
/// About 160 adverts of the greatest length in flight, or 2,000 of the usual one.
const FRAMES_BYTES: u32 = 256 * 1024;
/// Of all NICs together.
const MAX_ANSWERED: u32 = 1024;

#[map]
pub(crate) static FILTERS: ProgramArray = ProgramArray::with_max_entries(filters::COUNT, 0);
#[map]
pub(crate) static HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static NICS: HashMap<u32, NicPolicy> = HashMap::with_max_entries(MAX_NICS, 0);
#[map]
pub(crate) static NAMES: HashMap<IfName, u32> = HashMap::with_max_entries(MAX_NICS, 0);
#[map]
pub(crate) static LINK_HELD: HashMap<u32, u32> = HashMap::with_max_entries(MAX_NICS, 0);
/// By NIC, another number whenever the daemons may have forgotten its addresses: what was withheld before says
/// nothing any more of what they know.
#[map]
pub(crate) static EPOCHS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_NICS, 0);
/// Addresses of which it was withheld that they left. Of too many the oldest are forgotten:
/// they are announced as ever when they come back.
#[map]
pub(crate) static ADDRESSES_HELD: LruHashMap<HeldAddress, Held> =
    LruHashMap::with_max_entries(MAX_ADDRESSES_HELD, 0);
#[map]
pub(crate) static OWN_ADDRESSES: HashMap<AddressKey, u32> =
    HashMap::with_max_entries(MAX_OWN_ADDRESSES, 0);
#[map]
pub(crate) static SOCKETS: HashMap<u64, GuardedSocket> = HashMap::with_max_entries(MAX_SOCKETS, 0);
#[map]
pub(crate) static COMMAND_PORTS: HashMap<u32, u32> =
    HashMap::with_max_entries(MAX_COMMAND_PORTS, 0);
#[map]
pub(crate) static REPORTS: RingBuf = RingBuf::with_byte_size(REPORTS_BYTES, 0);
#[map]
pub(crate) static INTENTS: RingBuf = RingBuf::with_byte_size(INTENTS_BYTES, 0);
#[map]
pub(crate) static LAST_WORDS: HashMap<WordKey, IntentReport> =
    HashMap::with_max_entries(MAX_LAST_WORDS, 0);
/// By the task in whose context it was announced.
#[map]
pub(crate) static ANNOUNCED: LruHashMap<u64, Announced> =
    LruHashMap::with_max_entries(MAX_ANNOUNCED, 0);
/// When a task asked for a port of Open vSwitch to be deleted, by the task.
#[map]
pub(crate) static DELETING: LruHashMap<u64, u64> = LruHashMap::with_max_entries(MAX_DELETING, 0);
#[map]
pub(crate) static REPLAYED: HashMap<AddressKey, u32> = HashMap::with_max_entries(MAX_REPLAYED, 0);
#[map]
pub(crate) static TASK_NAMES: HashMap<[u8; TASK_COMM_LEN], u32> =
    HashMap::with_max_entries(MAX_TASK_NAMES, 0);
#[map]
pub(crate) static TASKS: RingBuf = RingBuf::with_byte_size(TASKS_BYTES, 0);
#[map]
pub(crate) static BEARERS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_BEARERS, 0);
#[map]
pub(crate) static BOUND_TO: HashMap<IfName, u32> = HashMap::with_max_entries(MAX_NICS, 0);
#[map]
pub(crate) static SHUNT_ENDS: HashMap<u32, ShuntEnd> = HashMap::with_max_entries(2 * MAX_NICS, 0);
#[map]
pub(crate) static SHUNTED: HashMap<u32, Thrown> = HashMap::with_max_entries(MAX_NICS, 0);
#[map]
pub(crate) static WATCHED: HashMap<AddressKey, u32> =
    HashMap::with_max_entries(MAX_ADDRESSES as u32, 0);
#[map]
pub(crate) static ANSWERED: HashMap<AnsweredKey, Answer> =
    HashMap::with_max_entries(MAX_ANSWERED, 0);
#[map]
pub(crate) static FRAMES: RingBuf = RingBuf::with_byte_size(FRAMES_BYTES, 0);
/// Until when each source has used up what it may.
#[map]
pub(crate) static SOURCES: LruHashMap<Source, u64> = LruHashMap::with_max_entries(MAX_SOURCES, 0);
/// The same for all sources that are not remembered.
#[map]
pub(crate) static NEWCOMERS: Array<u64> = Array::with_max_entries(1, 0);
/// Where a record is put together: it is larger than a program's stack.
#[map]
pub(crate) static RECORD: PerCpuArray<Record> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static EXCHANGE: PerCpuArray<Exchange> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);
#[map]
static OWN_RULES: PerCpuArray<u64> = PerCpuArray::with_max_entries(guard::OWN_RULES, 0);

/// Room for a captured frame: a power of two, which is a bound that every verifier follows.
pub(crate) const CAPTURE_ROOM: usize = CAPTURE_MAX.next_power_of_two();

/// A record of [`FRAMES`], as long as one can be.
#[repr(C)]
pub(crate) struct Record {
    pub(crate) report: FrameReport,
    pub(crate) bytes: [u8; CAPTURE_ROOM],
}

/// A change of an address that the kernel announced, and has not answered for yet.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Announced {
    pub(crate) time_ns: u64,
    pub(crate) address: [u8; 16],
    pub(crate) ifindex: u32,
    /// Of the request for which it was.
    pub(crate) sequence: u32,
    pub(crate) message_type: u16,
    pub(crate) family: u8,
    pub(crate) prefix_len: u8,
}

/// Adds one to `counter` on this CPU.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    add_one(&COUNTERS, counter as u32);
}

/// The same for a rule of the guard's: its counter has its number.
#[inline(always)]
pub(crate) fn count_rule(rule: u8) {
    add_one(&COUNTERS, u32::from(rule));
}

/// The same for a rule of the operator's own, by its place.
#[inline(always)]
pub(crate) fn count_own_rule(place: u8) {
    add_one(&OWN_RULES, u32::from(place));
}

#[inline(always)]
fn add_one(counts: &PerCpuArray<u64>, index: u32) {
    if let Some(value) = counts.get_ptr_mut(index) {
        // SAFETY: the pointer is to this CPU's slot, and nothing preempts a program on its CPU
        // with another that writes the same slot, but for nested programs, which may cost a count.
        unsafe { *value += 1 };
    }
}

/// Whether the loader is alive: its last heartbeat has not expired.
#[inline(always)]
pub(crate) fn alive() -> bool {
    HEARTBEAT.get(0).is_some_and(|until| now_ns() <= *until)
}

/// `CLOCK_MONOTONIC`, nanoseconds.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: a helper without preconditions.
    unsafe { bpf_ktime_get_ns() }
}
