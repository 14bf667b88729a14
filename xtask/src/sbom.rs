//! What the binary is made of, for those who look for crates with known faults: CycloneDX in its version 1.5, in JSON
//! (<https://cyclonedx.org/docs/1.5/json/>), beside each archive that has the binary in it.
//!
//! Which crates are linked, `cargo tree` says: it knows the features that one package is built with, where
//! `cargo metadata` has those of the whole workspace. The same binary makes the same document.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use serde_json::{Value, json};

use crate::{build, image, shell, statically, workspace};

/// The programs that are in the binary as well, and what they are compiled for.
const PROGRAMS: (&str, &str) = ("vipshield-ebpf", "bpfel-unknown-none");

/// What an archive's name is continued with.
const SUFFIX: &str = ".cdx.json";

/// A crate's name and version.
type Crate = (String, String);

/// Writes it beside this archive, whose binary this is.
pub(crate) fn write(archive: &Path, binary: &[u8]) -> Result<()> {
    let crates = linked(build::VIPSHIELD, statically::TARGET)?;
    let programs = linked(PROGRAMS.0, PROGRAMS.1)?;
    let mut document = document(&metadata()?, &crates.union(&programs).cloned().collect())?;
    if let Some(hashes) = document.pointer_mut("/metadata/component/hashes") {
        let digest = image::digest(binary);
        let content = digest.split_once(':').map_or(digest.as_str(), |(_, hex)| hex);
        *hashes = json!([{ "alg": "SHA-256", "content": content }]);
    }
    let mut name = archive.file_name().context("the archive's name")?.to_owned();
    name.push(SUFFIX);
    let path = archive.with_file_name(name);
    fs::write(&path, serde_json::to_vec_pretty(&document)?)
        .with_context(|| path.display().to_string())?;
    println!("sbom: {}", path.display());
    Ok(())
}

fn metadata() -> Result<Metadata> {
    let arguments = ["metadata", "--locked", "--format-version", "1"];
    let text = shell::output(workspace::cargo()?.args(arguments))?;
    MetadataCommand::parse(text).context("cargo metadata")
}

/// The crates that are compiled into this package for this target, the package itself and the macros that
/// wrote parts of it included.
fn linked(package: &str, target: &str) -> Result<BTreeSet<Crate>> {
    let tree = shell::output(workspace::cargo()?.args([
        "tree",
        "--locked",
        "--package",
        package,
        "--edges",
        "normal",
        "--target",
        target,
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    let named = |line: &str| {
        let mut words = line.split(' ');
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        Some((name.to_owned(), version.to_owned()))
    };
    tree.lines()
        .filter(|line| !line.is_empty())
        .map(|line| named(line).context(line.to_owned()))
        .collect()
}

fn document(metadata: &Metadata, crates: &BTreeSet<Crate>) -> Result<Value> {
    let key = |package: &Package| (package.name.to_string(), package.version.to_string());
    let all: BTreeMap<&PackageId, &Package> = metadata
        .packages
        .iter()
        .filter(|package| crates.contains(&key(package)))
        .map(|package| (&package.id, package))
        .collect();
    // By name: a package's id has the directory of who built it, if it is of this workspace.
    let mut sorted: Vec<&Package> = all.values().copied().collect();
    sorted.sort_by_key(|package| key(package));
    let (own, others): (Vec<&Package>, Vec<&Package>) =
        sorted.iter().copied().partition(|package| package.name.as_str() == build::VIPSHIELD);
    let own = own.first().context("vipshield is not among its own crates")?;
    let mut application = component(own, "application");
    if let Some(fields) = application.as_object_mut() {
        fields.insert("hashes".to_owned(), json!([]));
    }
    let nodes = metadata.resolve.as_ref().context("cargo metadata resolves nothing")?;
    let edges: BTreeMap<&PackageId, Vec<String>> = nodes
        .nodes
        .iter()
        .map(|node| {
            let is_linked = |of: &cargo_metadata::NodeDep| {
                let mut kinds = of.dep_kinds.iter();
                kinds.any(|kind| kind.kind == DependencyKind::Normal)
                    // The programs are a dependency of the build script, which embeds them.
                    || all.get(&of.pkg).is_some_and(|package| package.name.as_str() == PROGRAMS.0)
            };
            let linked = node.deps.iter().filter(|of| is_linked(of));
            let mut named: Vec<String> = linked
                .filter_map(|of| all.get(&of.pkg))
                .map(|package| reference(package))
                .collect();
            named.sort_unstable();
            (&node.id, named)
        })
        .collect();
    let dependencies: Vec<Value> = sorted
        .iter()
        .map(|package| json!({ "ref": reference(package), "dependsOn": edges.get(&package.id) }))
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": application },
        "components": others.iter().map(|package| component(package, "library")).collect::<Vec<_>>(),
        "dependencies": dependencies,
    }))
}

fn reference(package: &Package) -> String {
    format!("{}@{}", package.name, package.version)
}

fn component(package: &Package, kind: &str) -> Value {
    let mut component = json!({
        "type": kind,
        "bom-ref": reference(package),
        "name": package.name,
        "version": package.version,
    });
    let Some(fields) = component.as_object_mut() else { return component };
    if let Some(license) = &package.license {
        // Until 2018 cargo wanted a slash, which is no SPDX.
        let expression = license.replace('/', " OR ");
        fields.insert("licenses".to_owned(), json!([{ "expression": expression }]));
    }
    // A crate of this workspace is not the one of crates.io that may have its name some day.
    if package.source.is_some() {
        let name = format!("pkg:cargo/{}@{}", package.name, package.version);
        fields.insert("purl".to_owned(), json!(name));
    }
    component
}

#[cfg(test)]
mod tests {
    use cyclonedx_bom::prelude::{Bom, Validate as _};

    use super::*;

    /// What is missing of the crates that are linked; the document has to be valid.
    fn missing(document: &Value) -> BTreeSet<Crate> {
        let text = serde_json::to_vec(document).unwrap();
        let bom = Bom::parse_from_json(text.as_slice()).unwrap();
        let verdict = bom.validate();
        assert!(verdict.passed(), "{verdict:?}");
        let components = bom.components.unwrap().0.into_iter();
        let own = bom.metadata.unwrap().component.unwrap();
        let named = |it: cyclonedx_bom::models::component::Component| {
            (it.name.to_string(), it.version.unwrap().to_string())
        };
        let there: BTreeSet<Crate> = components.chain([own]).map(named).collect();
        let mut wanted = linked(build::VIPSHIELD, statically::TARGET).unwrap();
        wanted.extend(linked(PROGRAMS.0, PROGRAMS.1).unwrap());
        wanted.difference(&there).cloned().collect()
    }

    fn whole() -> Value {
        without("")
    }

    /// One in whose making this crate was overlooked.
    fn without(name: &str) -> Value {
        let mut crates = linked(build::VIPSHIELD, statically::TARGET).unwrap();
        crates.extend(linked(PROGRAMS.0, PROGRAMS.1).unwrap());
        crates.retain(|(there, _)| there != name);
        document(&metadata().unwrap(), &crates).unwrap()
    }

    #[test]
    fn every_crate_that_is_linked_is_in_it_and_one_that_is_left_out_is_missed() {
        assert_eq!(missing(&whole()), BTreeSet::new());
        let left_out = missing(&without("rtnetlink"));
        assert_eq!(left_out.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["rtnetlink"]);
    }

    /// What vipshield's own manifest names, the programs that are embedded, and what no feature asks for.
    #[test]
    fn it_has_what_is_linked_and_nothing_else() {
        let document = whole();
        let components = document["components"].as_array().unwrap();
        let has = |name: &str| components.iter().any(|it| it["name"] == name);
        let metadata = metadata().unwrap();
        let own = metadata.packages.iter().find(|it| it.name.as_str() == build::VIPSHIELD).unwrap();
        for dependency in own.dependencies.iter().filter(|it| it.kind == DependencyKind::Normal) {
            assert!(has(&dependency.name), "{}", dependency.name);
        }
        assert!(has("aya-ebpf"), "a crate of the eBPF programs");
        for name in ["proptest", "aya-build", "libtest-mimic", "vipshield-lab"] {
            assert!(!has(name), "{name} is for tests or for the build");
        }
        assert!(!document.to_string().contains("path+file"), "the directory of who built it");
    }

    #[test]
    fn it_is_beside_the_archive_and_says_of_which_binary_it_is() {
        let directory = std::env::temp_dir().join(format!("vipshield-sbom-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        write(&directory.join("one.oci.tar"), b"the binary").unwrap();
        let text = fs::read(directory.join("one.oci.tar.cdx.json")).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        let document: Value = serde_json::from_slice(&text).unwrap();
        let said = document["metadata"]["component"]["hashes"][0]["content"].as_str().unwrap();
        assert_eq!(format!("sha256:{said}"), image::digest(b"the binary"));
    }

    /// From the binary down to every crate there is a way.
    #[test]
    fn every_crate_is_somebodys_dependency() {
        let document = whole();
        let edges: BTreeMap<&str, Vec<&str>> = document["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| {
                let on = it["dependsOn"].as_array().unwrap().iter();
                (it["ref"].as_str().unwrap(), on.map(|on| on.as_str().unwrap()).collect())
            })
            .collect();
        let mut reached = BTreeSet::new();
        let mut next = vec![document["metadata"]["component"]["bom-ref"].as_str().unwrap()];
        while let Some(one) = next.pop() {
            if reached.insert(one) {
                next.extend(&edges[one]);
            }
        }
        assert_eq!(reached, edges.keys().copied().collect());
    }
}
