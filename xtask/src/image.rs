//! `cargo xtask image`: the container image, from nothing but the static binary, as an OCI archive.
//!
//! The same binary makes the same archive, byte by byte: no times, no owners, one order
//! (<https://github.com/opencontainers/image-spec>).

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{build, sbom, statically, workspace};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The beginning of time.
const CREATED: &str = "1970-01-01T00:00:00Z";

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The command.
pub(crate) fn run() -> Result<()> {
    let binary = statically::build()?;
    let bytes = fs::read(&binary).with_context(|| binary.display().to_string())?;
    let image = archive(&bytes)?;
    let path = workspace::target()?.join(format!("vipshield-{VERSION}.oci.tar"));
    fs::write(&path, &image.archive).with_context(|| path.display().to_string())?;
    println!("image: {} ({} KiB)", path.display(), image.archive.len() >> 10);
    println!("image: {}", image.digest);
    sbom::write(&path, &bytes)?;
    println!(
        "image: `ctr -n k8s.io images import`, `podman load -i` or `skopeo copy oci-archive:` takes it"
    );
    Ok(())
}

struct Image {
    archive: Vec<u8>,
    /// Of its manifest: by this a registry knows it.
    digest: String,
}

/// Something that is found by its digest.
struct Blob {
    media_type: &'static str,
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { media_type, digest: digest(&bytes), bytes }
    }

    fn json(media_type: &'static str, value: &Value) -> Result<Self> {
        Ok(Self::new(media_type, serde_json::to_vec(value)?))
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }
}

fn archive(binary: &[u8]) -> Result<Image> {
    let layer = layer(binary)?;
    let mut compressed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    compressed.write_all(&layer)?;
    let compressed = Blob::new(LAYER, compressed.finish()?);
    let config = json!({
        "created": CREATED,
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": "0:0",
            "Env": ["PATH=/usr/bin"],
            "Entrypoint": ["/usr/bin/vipshield"],
            "Cmd": ["run"],
            "Labels": {
                "org.opencontainers.image.title": build::VIPSHIELD,
                "org.opencontainers.image.version": VERSION,
                "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        "history": [{ "created": CREATED, "created_by": "cargo xtask image" }],
    });
    let config = Blob::json(CONFIG, &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(),
        "layers": [compressed.descriptor()],
    });
    let manifest = Blob::json(MANIFEST, &manifest)?;
    let mut named = manifest.descriptor();
    if let Some(named) = named.as_object_mut() {
        named.insert(
            "annotations".to_owned(),
            json!({
                "org.opencontainers.image.ref.name": VERSION,
                "io.containerd.image.name": format!("docker.io/library/vipshield:{VERSION}"),
            }),
        );
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [named] });
    let mut tar = Builder::new(Vec::new());
    add(
        &mut tar,
        "oci-layout",
        0o644,
        &serde_json::to_vec(&json!({ "imageLayoutVersion": "1.0.0" }))?,
    )?;
    add(&mut tar, "index.json", 0o644, &serde_json::to_vec(&index)?)?;
    for blob in [&compressed, &config, &manifest] {
        add(&mut tar, &blob.path(), 0o644, &blob.bytes)?;
    }
    Ok(Image { archive: tar.into_inner()?, digest: manifest.digest })
}

/// What the container sees: the binary, and where its control socket goes.
fn layer(binary: &[u8]) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (path, mode) in
        [("usr/", 0o755), ("usr/bin/", 0o755), ("run/", 0o755), ("run/vipshield/", 0o700)]
    {
        let mut header = header(EntryType::Directory, mode, 0);
        tar.append_data(&mut header, path, std::io::empty())?;
    }
    add(&mut tar, "usr/bin/vipshield", 0o755, binary)?;
    Ok(tar.into_inner()?)
}

fn add(tar: &mut Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, mode, bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)?;
    Ok(())
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// As registries write it: the algorithm, a colon, and so many digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex =
        Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use tar::Archive;

    use super::*;

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = Archive::new(archive);
        let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().display().to_string(), bytes)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn the_same_binary_makes_the_same_archive() {
        let [one, same, other] = [b"one", b"one", b"two"].map(|it| archive(it).unwrap());
        assert!(one.archive == same.archive && one.digest == same.digest);
        assert_ne!(one.digest, other.digest);
    }

    /// From the index down to the binary everything is found by its digest.
    #[test]
    fn every_blob_is_what_its_digest_says() {
        let image = archive(b"the binary").unwrap();
        let files = files(&image.archive);
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let bytes = &files[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(super::digest(bytes), digest);
            assert_eq!(descriptor["size"], bytes.len());
            bytes
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = json(&files["index.json"]);
        let manifest = json(blob(&index["manifests"][0]));
        let config = json(blob(&manifest["config"]));
        let mut layer = Vec::new();
        GzDecoder::new(blob(&manifest["layers"][0]).as_slice()).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], super::digest(&layer));
        let inside = super::tests::files(&layer);
        assert_eq!(inside["usr/bin/vipshield"], b"the binary");
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/vipshield");
    }
}
