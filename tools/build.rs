//! What a fully static executable links for RDMA devices; an ordinary one finds all of it through pkg-config.

use std::env;

/// libibverbs and librdmacm, the providers that `ferroce_transport::rdma::verbs::link_providers` names, and what they
/// need. A group, since libibverbs and its providers need each other.
const ARCHIVES: &[&str] = &[
    "-Wl,-Bstatic",
    "-Wl,--start-group",
    "-lrdmacm",
    "-libverbs",
    "-lrxe-rdmav34",
    "-lmlx5",
    "-lmlx4",
    "-lirdma-rdmav34",
    "-lbnxt_re-rdmav34",
    "-lqedr-rdmav34",
    "-lvmw_pvrdma-rdmav34",
    "-lnl-route-3",
    "-lnl-3",
    "-lpthread",
    "-lm",
    "-Wl,--end-group",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let fully_static = features.split(',').any(|feature| feature == "crt-static");
    if !fully_static || env::var_os("CARGO_FEATURE_VERBS").is_none() {
        return;
    }
    // Where Debian's packages keep the archives.
    println!("cargo:rustc-link-search=native=/usr/lib/x86_64-linux-gnu");
    for argument in ARCHIVES {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
