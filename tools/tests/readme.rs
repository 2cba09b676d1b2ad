//! What README.md shows of other programs' files is what these take, as far as that can be seen without them.

use std::fs;
use std::path::Path;

use yaml_rust2::{Yaml, YamlLoader};

/// The documents of all indented blocks that begin as YAML does.
fn documents() -> Vec<Yaml> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(path).expect("it is there");
    let mut blocks = vec![String::new()];
    for line in text.lines() {
        match line.strip_prefix("    ") {
            Some(line) => *blocks.last_mut().expect("one") += &format!("{line}\n"),
            None => blocks.push(String::new()),
        }
    }
    let is_yaml = |block: &String| {
        let first = block.lines().next().unwrap_or_default();
        let key = first.split_once(": ").map(|(key, _)| key);
        key.is_some_and(|key| {
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
    };
    blocks.retain(is_yaml);
    let parse = |block: String| {
        YamlLoader::load_from_str(&block).unwrap_or_else(|why| panic!("{why}:\n{block}"))
    };
    blocks.into_iter().flat_map(parse).collect()
}

fn of_kind<'a>(all: &'a [Yaml], kind: &str) -> Vec<&'a Yaml> {
    all.iter()
        .filter(|one| text(&one["kind"]) == kind)
        .collect()
}

fn text(value: &Yaml) -> &str {
    value.as_str().unwrap_or_default()
}

fn keys(value: &Yaml) -> Vec<&str> {
    let keys = value.as_hash().expect("a map").keys();
    keys.map(text).collect()
}

const UUID_LEN: usize = 36;
const BY_ID: &str = "/dev/disk/by-id/nvme-uuid.";

/// The fields of Kubernetes' v1 PersistentVolume and PersistentVolumeClaim that static volumes need.
#[test]
fn volumes_are_what_kubernetes_takes() {
    let all = documents();
    let (volumes, claims) = (
        of_kind(&all, "PersistentVolume"),
        of_kind(&all, "PersistentVolumeClaim"),
    );
    assert_eq!((volumes.len(), claims.len()), (2, 2));
    for volume in &volumes {
        assert_eq!(text(&volume["apiVersion"]), "v1");
        let (name, spec) = (text(&volume["metadata"]["name"]), &volume["spec"]);
        let known = [
            "accessModes",
            "capacity",
            "persistentVolumeReclaimPolicy",
            "storageClassName",
            "mountOptions",
            "volumeMode",
            "csi",
            "local",
            "nodeAffinity",
        ];
        for key in keys(spec) {
            assert!(known.contains(&key), "{name}: {key}");
        }
        assert_eq!(
            text(&spec["persistentVolumeReclaimPolicy"]),
            "Retain",
            "{name}"
        );
        // The claim that is bound to it asks for what it has.
        let claim = claims
            .iter()
            .find(|claim| text(&claim["spec"]["volumeName"]) == name);
        let claim = &claim.unwrap_or_else(|| panic!("nobody claims {name}"))["spec"];
        for key in ["accessModes", "storageClassName", "volumeMode"] {
            assert_eq!(spec[key], claim[key], "{name}: {key}");
        }
        // No class: an absent one would be the cluster's default.
        assert_eq!(spec["storageClassName"].as_str(), Some(""), "{name}");
        assert_eq!(
            spec["capacity"]["storage"], claim["resources"]["requests"]["storage"],
            "{name}"
        );
        let modes = spec["accessModes"].as_vec().expect("a list");
        assert!(
            !modes.is_empty()
                && modes
                    .iter()
                    .all(|mode| ["ReadOnlyMany", "ReadWriteOnce"].contains(&text(mode)))
        );
    }
}

#[test]
fn the_driver_gets_all_it_asks_for() {
    let all = documents();
    let volumes = of_kind(&all, "PersistentVolume");
    let csi = volumes
        .iter()
        .map(|volume| &volume["spec"]["csi"])
        .find(|csi| !csi.is_badvalue());
    let csi = csi.expect("one is the driver's");
    assert_eq!(text(&csi["driver"]), "csi.nvmf.com");
    let attributes = &csi["volumeAttributes"];
    assert_eq!(
        keys(attributes),
        [
            "targetTrAddr",
            "targetTrPort",
            "targetTrType",
            "nqn",
            "deviceUUID"
        ]
    );
    // Kubernetes takes texts there, and no numbers.
    for key in keys(attributes) {
        assert!(attributes[key].as_str().is_some(), "{key}");
    }
    assert_eq!(csi["volumeHandle"], attributes["nqn"]);
    assert_eq!(text(&attributes["deviceUUID"]).len(), UUID_LEN);
}

#[test]
fn a_local_volume_is_the_disk_that_the_cache_uses() {
    let all = documents();
    let volumes = of_kind(&all, "PersistentVolume");
    let local = volumes
        .iter()
        .find(|volume| !volume["spec"]["local"].is_badvalue());
    let spec = &local.expect("one is local")["spec"];
    assert_eq!(text(&spec["volumeMode"]), "Block");
    let path = text(&spec["local"]["path"]);
    assert_eq!(path.strip_prefix(BY_ID).map(str::len), Some(UUID_LEN));
    // Kubernetes refuses a local volume that is everywhere.
    let term = &spec["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!(
        (text(&term["key"]), text(&term["operator"])),
        ("kubernetes.io/hostname", "In")
    );

    let cache = all
        .iter()
        .find(|one| !one["extra_config"].is_badvalue())
        .expect("one");
    for key in ["store_location", "storage_plugins", "retrieve_locations"] {
        let said = &cache[key];
        let one = said.as_vec().map_or(said, |list| &list[0]);
        assert_eq!(text(one), "raw_block", "{key}");
    }
    let extra = &cache["extra_config"];
    assert_eq!(text(&extra["rust_raw_block.device_path"]), path);
    assert_eq!(extra["rust_raw_block.use_odirect"].as_bool(), Some(true));
    assert_eq!(extra["rust_raw_block.block_align"].as_i64(), Some(4096));
}
