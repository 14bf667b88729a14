//! Who is a daemon: not who is called so, but who may do what a daemon does.

use std::fs::File;

use libtest_mimic::Failed;
use nix::sched::{CloneFlags, setns, unshare};
use tokio::runtime::Runtime;
use vipshield::{
    bpf::{self, Programs},
    daemons::{Kin, Looked, Scanner, Scope},
};
use vipshield_common::tasks::{TaskChange, TaskEvent, UNKNOWN};

use super::{check, daemon::StandIn, namespace};

const NOBODY: [&str; 7] =
    ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];

/// How it is started, and whether it is a daemon.
fn cases() -> Vec<(&'static str, Vec<&'static str>, bool)> {
    let nobody = |more: &[&'static str]| [&NOBODY[..], more].concat();
    let capable = [
        "setpriv",
        "--inh-caps=-all,+net_admin",
        "--ambient-caps=-all,+net_admin",
        "--reuid",
        "65534",
    ];
    vec![
        ("root", vec![], true),
        ("nobody", nobody(&[]), false),
        ("root of a user namespace of its own", nobody(&["unshare", "-Ur"]), false),
        ("that, with a network of its own", nobody(&["unshare", "-Urn"]), false),
        ("nobody with CAP_NET_ADMIN", capable.to_vec(), true),
        (
            "root without CAP_NET_ADMIN",
            vec!["setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin"],
            false,
        ),
    ]
}

/// What the kernel told of its start.
fn started(
    runtime: &Runtime,
    programs: &mut Programs,
    stand_in: &StandIn,
) -> Result<TaskEvent, Failed> {
    let mut tasks = Vec::new();
    let began =
        |task: &TaskEvent| task.pid == stand_in.pid() && task.change == TaskChange::Exec as u32;
    let told = async {
        loop {
            programs.tasks.read(|record| tasks.extend(bpf::task_event(record))).await?;
            if let Some(task) = tasks.iter().copied().find(began) {
                return Ok::<_, Failed>(task);
            }
        }
    };
    runtime.block_on(async { tokio::time::timeout(namespace::PATIENCE, told).await })?
}

pub(crate) fn names_prove_nothing() -> Result<(), Failed> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let runtime = namespace::runtime()?;
    let _inside = runtime.enter();
    for (number, (who, wrapper, is_daemon)) in cases().into_iter().enumerate() {
        let name = format!("vsp{}-{number}", std::process::id());
        let mut programs = Programs::load(std::slice::from_ref(&name))?;
        let stand_in = StandIn::start_as(&name, &wrapper)?;
        let mut scanner = Scanner::new(vec![stand_in.name.clone()])?;
        let expected = if is_daemon { Kin::Other } else { Kin::Stranger };
        // As the kernel's word has it, and as it is looked at where the kernel gives none.
        let told = started(&runtime, &mut programs, &stand_in)?;
        for admin_of in [told.admin_of, UNKNOWN] {
            let kin = scanner.kin(&TaskEvent { admin_of, ..told });
            check(kin == expected, format!("{who}, of {admin_of}: {kin:?}"))?;
        }
        for scope in [Scope::All, Scope::Known, Scope::All] {
            let Looked { daemons, died, .. } = scanner.scan(scope)?;
            let found = daemons.len() == usize::from(is_daemon);
            check(found && !died, format!("{who}: {daemons:?}"))?;
        }
    }
    Ok(())
}

/// Where the network belongs to a user namespace, its root counts, and vipshield, which is outside, knows it.
pub(crate) fn root_of_its_own_network() -> Result<(), Failed> {
    let wrapper = [&NOBODY[..], &["unshare", "-Urn"]].concat();
    let stand_in = StandIn::start_as(&format!("vspn{}", std::process::id()), &wrapper)?;
    setns(File::open(format!("/proc/{}/ns/net", stand_in.pid()))?, CloneFlags::CLONE_NEWNET)?;
    let mut scanner = Scanner::new(vec![stand_in.name.clone()])?;
    let (pid, change, admin_of) = (stand_in.pid(), TaskChange::Exec as u32, UNKNOWN);
    let kin = scanner.kin(&TaskEvent { pid, change, admin_of, ..TaskEvent::default() });
    check(kin == Kin::Other, format!("it may change its network: {kin:?}"))?;
    let Looked { daemons, .. } = scanner.scan(Scope::All)?;
    check(daemons.len() == 1, format!("and is a daemon there: {daemons:?}"))
}

/// However many sockets a daemon has, and however often each, so many are guarded, and that is said.
pub(crate) fn too_many_sockets() -> Result<(), Failed> {
    let name = format!("vspm{}", std::process::id());
    let stand_in = StandIn::with_sockets(&name, 400, 2_000)?;
    let mut scanner = Scanner::new(vec![name])?;
    let Looked { daemons, .. } = scanner.scan(Scope::All)?;
    let [daemon] = daemons.as_slice() else { return Err(format!("{daemons:?}").into()) };
    check(daemon.pid == stand_in.pid(), "it is found")?;
    let netlink = daemon.monitors.len() + daemon.commands.len();
    check(netlink == 16, format!("{netlink} are guarded"))?;
    let trouble = daemon.trouble.as_deref().unwrap_or_default();
    check(trouble.contains("more than 16 netlink sockets"), trouble)?;
    drop(stand_in);
    // One socket with many descriptors is one.
    let name = format!("vspd{}", std::process::id());
    let _stand_in = StandIn::with_sockets(&name, 0, 2_000)?;
    let mut scanner = Scanner::new(vec![name])?;
    let Looked { daemons, .. } = scanner.scan(Scope::All)?;
    let [daemon] = daemons.as_slice() else { return Err(format!("{daemons:?}").into()) };
    let sockets = (daemon.monitors.len(), daemon.commands.len(), daemon.trouble.clone());
    check(sockets == (2, 1, None), format!("{sockets:?}"))
}
