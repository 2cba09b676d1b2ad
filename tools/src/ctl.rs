//! `ferroce ctl`: asks a node that runs, and shows the answer.

pub mod protocol;
pub mod socket;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::time::Duration;

use ferroce_drivers::spec::Kind;
use ferroce_wire::log::Warnings;

use crate::cli::{CtlArgs, CtlCommand};
use crate::config::Device;
use crate::fail::{Context, Fail, Result, fail};
use crate::units::{about, thousands};
use protocol::{CoreView, HealthView, Host, LINE_MAX, Node, Order, Request, Response, SlowIo};

/// A change waits for commands under way, and for a drive to be opened.
const PATIENCE: Duration = Duration::from_secs(60);

/// `show` looks at the cores for so long.
const SAMPLE: Duration = Duration::from_millis(200);

/// Runs the command.
pub fn run(args: CtlArgs) -> Result<()> {
    let persist = args.persist;
    let request = Request {
        order: order(args.command)?,
        persist,
        subsystem: args.subsystem,
    };
    if persist
        && matches!(
            request.order,
            Order::Show | Order::Hosts | Order::Slow { .. } | Order::Disconnect { .. }
        )
    {
        fail!(
            "--persist: there is nothing to write; it goes with add, remove, resize, allow, forbid, listen and unlisten"
        );
    }
    if request.subsystem.is_some()
        && matches!(
            request.order,
            Order::Slow { .. }
                | Order::Disconnect { .. }
                | Order::Listen { .. }
                | Order::Unlisten { .. }
        )
    {
        fail!("--subsystem: this is of the whole node; leave it out");
    }
    let ask = || ask(args.ctl.as_deref(), &request).and_then(|response| only(response, &request));
    match ask()? {
        Response::Failed(why) => Err(Fail(why)),
        response if args.json => {
            let value = match &response {
                Response::Node(node) => serde_json::to_string_pretty(node),
                Response::Hosts(hosts) => serde_json::to_string_pretty(hosts),
                Response::Slow(slowest) => serde_json::to_string_pretty(slowest),
                other => serde_json::to_string(other),
            };
            print(&(value.expect("plain data serializes") + "\n"))
        }
        Response::Done(line) => print(&(line + "\n")),
        Response::Node(before) => {
            // How the cores spend their time now, not since the start.
            std::thread::sleep(SAMPLE);
            match ask()? {
                Response::Node(node) => print(&show(&node, &before)),
                _ => print(&show(&before, &before)),
            }
        }
        Response::Hosts(hosts) => print(&show_hosts(&hosts)),
        Response::Slow(slowest) => print(&show_slow(&slowest)),
    }
}

/// Of an answer, what is of the subsystem in question.
fn only(mut response: Response, request: &Request) -> Result<Response> {
    let Some(nqn) = &request.subsystem else {
        return Ok(response);
    };
    match &mut response {
        Response::Node(node) => {
            node.subsystems.retain(|subsystem| subsystem.nqn == *nqn);
            if node.subsystems.is_empty() {
                fail!("there is no subsystem {nqn}");
            }
        }
        Response::Hosts(hosts) => hosts.retain(|host| host.subsystem == *nqn),
        _ => (),
    }
    Ok(response)
}

/// One request, one response.
pub fn ask(path: Option<&Path>, request: &Request) -> Result<Response> {
    let mut stream = socket::connect(path)?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .context(|| "the control socket")?;
    let mut line = serde_json::to_string(request).expect("plain data serializes");
    line.push('\n');
    stream
        .write_all(line.as_bytes())
        .context(|| "the node does not take the request")?;
    let mut answer = String::new();
    BufReader::new(stream.take(LINE_MAX as u64))
        .read_line(&mut answer)
        .context(|| format!("the node did not answer within {} s", PATIENCE.as_secs()))?;
    if answer.is_empty() {
        fail!("the node hung up without an answer; its log says why");
    }
    serde_json::from_str(&answer).context(|| "the node answered something else (another version?)")
}

fn order(command: CtlCommand) -> Result<Order> {
    Ok(match command {
        CtlCommand::Show => Order::Show,
        CtlCommand::Hosts => Order::Hosts,
        CtlCommand::Slow { reset } => Order::Slow { reset },
        // The node opens it, so a path is looked for from where the operator stands.
        CtlCommand::Add {
            device,
            nsid,
            read_only,
        } => Order::Add {
            device: absolute(device)?,
            nsid,
            read_only,
        },
        CtlCommand::Remove { nsid } => Order::Remove { nsid },
        CtlCommand::Resize { nsid, size } => Order::Resize { nsid, size: size.0 },
        CtlCommand::Allow { host } => Order::Allow { host },
        CtlCommand::Forbid { host } => Order::Forbid { host },
        CtlCommand::Disconnect { host } => Order::Disconnect { host },
        CtlCommand::Listen { url } => Order::Listen {
            url: url.to_string(),
        },
        CtlCommand::Unlisten { url } => Order::Unlisten {
            url: url.to_string(),
        },
    })
}

fn absolute(device: Device) -> Result<String> {
    let Kind::File { path, .. } = &device.spec.kind else {
        return Ok(device.text);
    };
    let whole = std::path::absolute(path).context(|| path.display())?;
    let (path, whole) = (path.display().to_string(), whole.display().to_string());
    Ok(device.text.replacen(&path, &whole, 1))
}

/// Writes to the terminal, or to a pipe whose reader may have had enough.
pub fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(cause) if cause.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Fail(format!("cannot write to standard output: {cause}")))
        }
        _ => Ok(()),
    }
}

fn counted(counts: &[(String, u64)]) -> String {
    let counts = counts
        .iter()
        .map(|(name, count)| format!("{name} {}", thousands(*count)));
    counts.collect::<Vec<_>>().join(", ")
}

fn show(node: &Node, before: &Node) -> String {
    let mut out = format!(
        "ferroce {}, process {}, up {}\n",
        node.version,
        node.pid,
        uptime(node.uptime_s)
    );
    let _ = writeln!(
        out,
        "config    {}",
        node.config.as_deref().unwrap_or("none: started from flags")
    );
    for url in &node.listen {
        let _ = writeln!(out, "listens   {url}");
    }
    if !node.wake_up.is_empty() {
        let _ = writeln!(out, "CPUs      wake up {}", node.wake_up);
    }
    for (number, core) in node.cores.iter().enumerate() {
        let cpu = core
            .cpu
            .map_or("not pinned".into(), |cpu| format!("CPU {cpu}"));
        let spent = shares(core, before.cores.get(number).unwrap_or(core));
        let _ = writeln!(
            out,
            "core {number:<4} {cpu}, {} connections, {spent}, {} of {} buffers in use, {} waits so far",
            core.connections,
            about(core.buffer_used_bytes),
            about(core.buffer_bytes),
            thousands(core.waits)
        );
        for (name, counts) in [("tcp", &core.tcp), ("rdma", &core.rdma)] {
            if !counts.is_empty() {
                let _ = writeln!(out, "  {name:<7} {}", counted(counts));
            }
        }
    }
    for (device, what, count) in &node.rdma_devices {
        let _ = writeln!(out, "device    {device}: {what} {}", thousands(*count));
    }
    if !node.requests.is_empty() {
        let _ = writeln!(out, "requests  {}", counted(&node.requests));
    }
    for missing in &node.missing {
        let _ = writeln!(out, "missing   {missing}");
    }
    for subsystem in &node.subsystems {
        let _ = writeln!(out, "\nsubsystem {}", subsystem.nqn);
        let _ = writeln!(
            out,
            "  serial  {}   model  {}",
            subsystem.serial, subsystem.model
        );
        match &subsystem.allow {
            None => out.push_str("  allows  every host\n"),
            Some(hosts) if hosts.is_empty() => out.push_str("  allows  no host\n"),
            Some(hosts) => hosts.iter().for_each(|host| {
                let _ = writeln!(out, "  allows  {host}");
            }),
        }
        if subsystem.namespaces.is_empty() {
            out.push_str("  no namespaces\n");
            continue;
        }
        let mut table = vec![row(["NSID", "SIZE", "BLOCK", "MODE", "UUID", "DEVICE"])];
        for namespace in &subsystem.namespaces {
            let mode = if namespace.read_only {
                "read-only"
            } else {
                "read-write"
            };
            table.push(row([
                &namespace.nsid.to_string(),
                &about(namespace.bytes),
                &namespace.block.to_string(),
                mode,
                &namespace.uuid,
                &namespace.device,
            ]));
        }
        out.push_str(&columns(&table, "  "));
        for namespace in &subsystem.namespaces {
            if let Some(health) = &namespace.health {
                let _ = writeln!(
                    out,
                    "  drive   of {}: {}",
                    namespace.nsid,
                    condition(health)
                );
            }
        }
    }
    out
}

/// How a drive is, in a line.
fn condition(health: &HealthView) -> String {
    let temperature = match health.kelvin {
        0 => String::new(),
        kelvin => format!("{} C, ", i32::from(kelvin) - 273),
    };
    let warning = match health.critical_warning {
        0 => String::new(),
        bits => format!("; {}", Warnings(bits)),
    };
    format!(
        "{temperature}{}% used, {}% spare, {} media errors, {} unexpected power losses{warning}",
        health.used_percent, health.spare_percent, health.media_errors, health.unsafe_shutdowns
    )
}

/// How a core spent its time between two looks.
fn shares(now: &CoreView, before: &CoreView) -> String {
    let spent = [
        (now.busy_ns, before.busy_ns, "busy"),
        (now.spinning_ns, before.spinning_ns, "polling"),
        (now.asleep_ns, before.asleep_ns, "asleep"),
    ]
    .map(|(now, before, name)| (now.saturating_sub(before), name));
    let all: u64 = spent.iter().map(|(ns, _)| ns).sum();
    let share = |(ns, name): &(u64, &str)| format!("{}% {name}", (ns * 100 + all / 2) / all.max(1));
    spent.iter().map(share).collect::<Vec<_>>().join(", ")
}

fn show_hosts(hosts: &[Host]) -> String {
    if hosts.is_empty() {
        return "no host is connected\n".into();
    }
    let mut table = vec![row([
        "CNTLID",
        "ADDRESS",
        "QUEUES",
        "READS",
        "WRITES",
        "READ",
        "WRITTEN",
        "HOST",
        "SUBSYSTEM",
    ])];
    for host in hosts {
        table.push(row([
            &host.cntlid.to_string(),
            &host.address,
            &host.queues.to_string(),
            &thousands(host.reads),
            &thousands(host.writes),
            &about(host.bytes_read),
            &about(host.bytes_written),
            &host.nqn,
            &host.subsystem,
        ]));
    }
    columns(&table, "")
}

fn show_slow(slowest: &[SlowIo]) -> String {
    if slowest.is_empty() {
        return "no I/O yet\n".into();
    }
    let mut table = vec![row([
        "WHEN", "TOTAL us", "QUEUE", "DRIVE", "SEND", "COMMAND", "NSID", "SLBA", "BLOCKS", "CORE",
        "HOST",
    ])];
    for slow in slowest {
        let us = |ns: u64| format!("{:.1}", ns as f64 / 1000.0);
        let at = jiff::Timestamp::from_millisecond(slow.at_ms as i64).unwrap_or_default();
        table.push(row([
            &format!("{at:.3}"),
            &us(slow.total_ns),
            &us(slow.queue_ns),
            &us(slow.drive_ns),
            &us(slow.send_ns),
            &slow.opcode,
            &slow.nsid.to_string(),
            &slow.slba.to_string(),
            &slow.blocks.to_string(),
            &slow.core.to_string(),
            &slow.host,
        ]));
    }
    columns(&table, "")
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Left-aligned columns, as wide as their widest cell.
fn columns(table: &[Vec<String>], indent: &str) -> String {
    let width = |column: usize| {
        table
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..table[0].len()).map(width).collect();
    let mut out = String::new();
    for row in table {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let _ = writeln!(out, "{indent}{}", cells.join("  ").trim_end());
    }
    out
}

fn uptime(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::protocol::{NamespaceView, SubsystemView};
    use super::*;

    #[test]
    fn shown_for_people() {
        let node = Node {
            rdma_devices: vec![("rxe0".into(), "port_errors".into(), 2)],
            version: "0.1.0".into(),
            pid: 7,
            uptime_s: 5,
            config: None,
            listen: vec!["tcp://127.0.0.1:4420".into()],
            wake_up: "at once: /dev/cpu_dma_latency is held at 0 us".into(),
            cores: vec![CoreView {
                cpu: Some(1),
                connections: 3,
                busy_ns: 1_000_100,
                spinning_ns: 50,
                asleep_ns: 250,
                buffer_bytes: 64 << 20,
                buffer_used_bytes: 4096,
                waits: 1234,
                tcp: vec![("violations".into(), 2)],
                rdma: Vec::new(),
            }],
            requests: vec![("received".into(), 1024), ("dropped_cm_flood".into(), 3)],
            missing: vec!["nvme:0000:01:00.0: it is not there".into()],
            subsystems: vec![SubsystemView {
                nqn: "nqn.2024-01.a:b".into(),
                serial: "S".into(),
                model: "M".into(),
                allow: Some(vec!["nqn.2024-01.a:host".into()]),
                namespaces: vec![NamespaceView {
                    nsid: 1,
                    device: "ram:64MiB".into(),
                    bytes: 64 << 20,
                    block: 4096,
                    read_only: false,
                    uuid: "4f2d7f0e-8f0a-4c58-8a0e-2f1c0b9d7e61".into(),
                    health: Some(HealthView {
                        critical_warning: 2,
                        kelvin: 323,
                        spare_percent: 100,
                        spare_threshold_percent: 10,
                        used_percent: 3,
                        media_errors: 1,
                        error_log_entries: 4,
                        unsafe_shutdowns: 2,
                        power_on_hours: 7,
                    }),
                }],
            }],
        };
        let mut before = node.clone();
        before.cores[0].busy_ns = 1_000_000;
        before.cores[0].spinning_ns = 0;
        before.cores[0].asleep_ns = 0;
        assert_eq!(
            show(&node, &before),
            "ferroce 0.1.0, process 7, up 5 s\n\
             config    none: started from flags\n\
             listens   tcp://127.0.0.1:4420\n\
             CPUs      wake up at once: /dev/cpu_dma_latency is held at 0 us\n\
             core 0    CPU 1, 3 connections, 25% busy, 13% polling, 63% asleep, 4 KiB of 64 MiB buffers in use, \
             1,234 waits so far\n\
             \x20 tcp     violations 2\n\
             device    rxe0: port_errors 2\n\
             requests  received 1,024, dropped_cm_flood 3\n\
             missing   nvme:0000:01:00.0: it is not there\n\n\
             subsystem nqn.2024-01.a:b\n\
             \x20 serial  S   model  M\n\
             \x20 allows  nqn.2024-01.a:host\n\
             \x20 NSID  SIZE    BLOCK  MODE        UUID                                  DEVICE\n\
             \x20 1     64 MiB  4096   read-write  4f2d7f0e-8f0a-4c58-8a0e-2f1c0b9d7e61  ram:64MiB\n\
             \x20 drive   of 1: 50 C, 3% used, 100% spare, 1 media errors, 2 unexpected power losses; \
             critical warning 0x02: its temperature is beyond a threshold\n"
        );
        assert_eq!(show_hosts(&[]), "no host is connected\n");
    }
}
