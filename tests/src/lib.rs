//! The lab that proves vipshield.
//!
//! Hosts are network namespaces on one Ethernet segment; keepalived, Open
//! vSwitch and vipshield are the real programs. What Kube-OVN does to a node's
//! NIC is replayed step by step ([`sequence`]) while witnesses look on
//! ([`witness`]). Nothing here depends on vipshield's own crates, so that one
//! bug cannot hide on both sides.

pub mod background;
pub mod bpf;
pub mod case;
pub mod clock;
pub mod config;
pub mod datapath;
pub mod descriptors;
pub mod enslaver;
pub mod footprint;
pub mod forge;
pub mod further;
pub mod give_up;
pub mod keepalived;
pub mod lab;
pub mod measure;
pub mod netns;
pub mod objects;
pub mod order;
pub mod peers;
pub mod pretender;
pub mod process;
pub mod prometheus;
pub mod release;
pub mod report;
pub mod rtnl;
pub mod rundir;
pub mod scenarios;
pub mod sequence;
pub mod sockets;
pub mod stack;
pub mod vipshield;
pub mod witness;
pub mod witnesses;
