//! `ferroce serve`: the node, until it is told to stop.

mod manager;
mod reload;
mod setup;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use ferroce_engine::table::Transport;
use ferroce_transport::roce::udp::Facts;
use ferroce_wire::fabrics::DISCOVERY_NQN;

use crate::cli::ServeArgs;
use crate::config::Config;
use crate::ctl::print;
use crate::ctl::protocol::{Node as View, Order, Request, Response};
use crate::ctl::socket::Socket;
use crate::fail::{Fail, Result};
use crate::metrics::Place;
use crate::node::{self, News, Node};
use crate::signals::{Signals, Told};
use crate::units::about;
use crate::url::Url;
use manager::Manager;

/// Runs the command.
pub fn run(args: ServeArgs) -> Result<()> {
    if args.print_config {
        return print(crate::config::EXAMPLE);
    }
    let setup::Plan { config, file } = setup::plan(&args)?;
    // Before there is another thread, since each begins where its parent may run.
    node::keep_off_cores(&config)?;
    if args.check {
        setup::look_at_drives(&config, args.patient)?;
        return print("the configuration can be used\n");
    }
    // From here on a signal ends the node in good order, however far it has come.
    let mut signals = match &file {
        Some(_) => Signals::take_with_reload()?,
        None => Signals::take()?,
    };
    let socket = control_socket(&config)?;
    let metrics = config.metrics.map(Place::open).transpose()?;
    let metrics_at = metrics.as_ref().map(|place| place.address);
    let node = match args.patient {
        true => Node::start_patient(&config, file.clone())?,
        false => Node::start(&config, file.clone())?,
    };
    *node.handle().noting() = config.clone();
    for door in node.handle().open_doors()? {
        log::warn!("{door}");
    }
    if let Some(socket) = &socket {
        node.answer_at(socket)?;
    }
    if let Some(metrics) = metrics {
        metrics.answer(node.handle().clone())?;
    }
    let show = Request {
        order: Order::Show,
        persist: false,
        subsystem: None,
    };
    match node.handle().respond(&show) {
        Response::Node(view) => say(&greeting(
            &view,
            &config,
            (node.memory(), node.placed(), node.roce()),
            socket.as_ref(),
            metrics_at,
        )?),
        Response::Failed(why) => return Err(Fail(why)),
        _ => (),
    }
    let manager = Manager::of(&node);
    manager.ready();
    let (teller, looker) = (signals.teller(), manager.clone());
    node.look(move |news| match news {
        News::Found(_) => looker.tell_status(),
        News::Restart(why) => _ = teller.send(Told::Restart(why)),
    })?;
    if let Some(file) = file {
        let (handle, manager) = (node.handle().clone(), manager.clone());
        signals.on_reload(move || {
            manager.reloading();
            if let Err(Fail(why)) = reload::reload(&handle, &file) {
                log::error!("nothing of the configuration was changed: {why}");
            }
            manager.ready();
        })?;
    }
    let why = match signals.wait()? {
        Told::End(name) => Ok(name),
        Told::Restart(why) => Err(Fail(why)),
    };
    manager.stopping();
    say(&format!(
        "{}: finishing what is outstanding\n",
        why.as_ref().map_or("another start", |name| *name)
    ));
    node.stop()?;
    say("stopped\n");
    // Who started us starts us again, if it does so after a failure.
    why.map(drop)
}

/// Tells people; a node serves whether they can be told or not.
fn say(text: &str) {
    if let Err(Fail(why)) = print(text) {
        log::warn!("{why}");
    }
}

/// A socket that was asked for must be there; the usual one is worth a warning.
fn control_socket(config: &Config) -> Result<Option<Socket>> {
    match Socket::open(config.ctl.as_deref()) {
        Ok(socket) => Ok(Some(socket)),
        Err(why) if config.ctl.is_some() => Err(why),
        Err(why) => {
            log::warn!("no control socket, so `ferroce ctl` will not find this node: {why}");
            Ok(None)
        }
    }
}

/// What is served, and the lines to paste on a host.
fn greeting(
    view: &View,
    config: &Config,
    (memory, placed, roce): (&str, &str, &[Facts]),
    socket: Option<&Socket>,
    metrics: Option<SocketAddr>,
) -> Result<String> {
    let mut out = format!("Ferroce {} serves\n", view.version);
    for subsystem in &view.subsystems {
        let _ = writeln!(out, "  {}", subsystem.nqn);
        for namespace in &subsystem.namespaces {
            let mode = if namespace.read_only {
                ", read-only"
            } else {
                ""
            };
            let _ = writeln!(
                out,
                "    namespace {}  {}, {}, blocks of {}{mode}",
                namespace.nsid,
                namespace.device,
                about(namespace.bytes),
                namespace.block
            );
        }
        if subsystem.namespaces.is_empty() {
            out.push_str("    no namespaces; add one with `ferroce ctl add ram:64MiB`\n");
        }
    }
    for url in &view.listen {
        let _ = writeln!(out, "  at {url}");
    }
    for facts in roce {
        let _ = writeln!(out, "  {facts}");
    }
    let cpus: Vec<String> = view
        .cores
        .iter()
        .filter_map(|core| core.cpu)
        .map(|cpu| cpu.to_string())
        .collect();
    let pinned = if cpus.is_empty() {
        "not pinned".into()
    } else {
        format!("CPUs {}", cpus.join(","))
    };
    let cores = match view.cores.len() {
        1 => "1 core".to_owned(),
        count => format!("{count} cores"),
    };
    let _ = writeln!(
        out,
        "  with {cores} ({pinned}), spin {}, {memory}",
        config.spin
    );
    out.push_str(placed);
    if let Some(socket) = socket {
        let _ = writeln!(
            out,
            "  controlled by `ferroce ctl` through {}",
            socket.path.display()
        );
    }
    if let Some(address) = metrics {
        let _ = writeln!(out, "  measured at http://{address}/metrics");
    }
    for missing in &view.missing {
        let _ = writeln!(out, "  without {missing}");
    }
    out.push_str("\nOn a Linux host, as root:\n");
    let places: Vec<Url> = view
        .listen
        .iter()
        .filter_map(|url| url.parse().ok())
        .collect();
    for transport in [Transport::Tcp, Transport::Rdma] {
        let leads = |url: &&Url| url.scheme.transport() == transport;
        let Some(url) = places.iter().find(leads) else {
            continue;
        };
        let transport = match transport {
            Transport::Tcp => {
                out.push_str("  modprobe nvme-tcp\n");
                "tcp"
            }
            Transport::Rdma => {
                out.push_str(
                    "  modprobe -a nvme-rdma rdma_rxe  # the latter without an RDMA NIC\n  \
                     rdma link add rxe0 type rxe netdev ITS_INTERFACE\n",
                );
                "rdma"
            }
        };
        let at = format!("-t {transport} -a {} -s {}", reachable(url), url.port);
        let _ = writeln!(out, "  nvme discover {at}");
        for subsystem in view
            .subsystems
            .iter()
            .filter(|subsystem| subsystem.nqn != DISCOVERY_NQN)
        {
            let _ = writeln!(out, "  nvme connect {at} -n {}", subsystem.nqn);
            let _ = writeln!(out, "  nvme disconnect -n {}", subsystem.nqn);
        }
    }
    out.push('\n');
    Ok(out)
}

/// An address that a host can use: where every local one is listened at, one of those.
fn reachable(url: &Url) -> String {
    match url.host.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => "ADDRESS_OF_THIS_MACHINE".into(),
        _ => url.host.clone(),
    }
}
