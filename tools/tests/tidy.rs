//! The house rules that a machine can check.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `unsafe` may be, as files or folders.
const ROOMS: &[&str] = &[
    "engine/buf/",
    "drivers/src/file/ring.rs",
    "drivers/src/vfio.rs",
    "drivers/src/mmio.rs",
    "drivers/src/dma.rs",
    "transport/src/sys.rs",
    "transport/src/sys/",
    "transport/src/rdma/verbs/",
    "tools/tests/container.rs",
    "scripts/lab.d/hole.rs",
    "scripts/lab.d/insns.rs",
    "scripts/lab.d/mark.rs",
];
/// Lines of a file before its tests.
const LINES_MAX: usize = 950;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file of the repository.
struct File {
    /// Its path from the root.
    name: String,
    /// Its text.
    text: String,
}

impl File {
    /// The lines before the tests, with what strings and comments hold taken out.
    fn code(&self) -> Vec<(usize, String)> {
        let end = self
            .text
            .find("#[cfg(test)]\nmod ")
            .unwrap_or(self.text.len());
        self.text[..end]
            .lines()
            .map(code_of)
            .enumerate()
            .map(|(i, code)| (i + 1, code))
            .collect()
    }

    fn is_test(&self) -> bool {
        self.name.contains("/tests/")
            || self.name.contains("/benches/")
            || self.name.ends_with("tests.rs")
    }

    /// A test binary that counts allocations needs an allocator, and that is unsafe by nature.
    fn is_test_allocator(&self) -> bool {
        self.is_test() && self.text.contains("unsafe impl GlobalAlloc")
    }
}

/// What is left of a line without comments and the insides of strings.
fn code_of(line: &str) -> String {
    let mut code = String::new();
    let (mut in_string, mut escaped) = (false, false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if in_string => (),
            _ => code.push(c),
        }
    }
    code
}

/// The files git knows, or would add, whose names end so.
fn files(end: &str) -> Vec<File> {
    let list = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .ok()
        .filter(|out| out.status.success())
        .map_or_else(
            || walk(&root()),
            |out| {
                String::from_utf8_lossy(&out.stdout)
                    .lines()
                    .map(str::to_owned)
                    .collect()
            },
        );
    list.into_iter()
        .filter(|name| name.ends_with(end))
        .filter_map(|name| {
            Some(File {
                text: fs::read_to_string(root().join(&name)).ok()?,
                name,
            })
        })
        .collect()
}

/// Without git (a source archive): every file outside target.
fn walk(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden =
            entry.file_name().to_string_lossy().starts_with('.') && entry.file_name() != ".ci";
        if path.is_dir() && !hidden && entry.file_name() != "target" {
            found.extend(walk(&path));
        } else if path.is_file()
            && let Ok(name) = path.strip_prefix(root())
        {
            found.push(name.to_string_lossy().into_owned());
        }
    }
    found
}

/// Fails with every offence, not only the first.
fn hold(rule: &str, offences: Vec<String>) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !letter(code[..at].chars().next_back()) && !letter(code[at + word.len()..].chars().next())
    })
}

#[test]
fn unsafe_stays_in_its_rooms() {
    let mut offences = Vec::new();
    for file in files(".rs") {
        if ROOMS.iter().any(|room| file.name.starts_with(room)) || file.is_test_allocator() {
            continue;
        }
        for (number, line) in file.text.lines().map(code_of).enumerate() {
            if has_word(&line, "unsafe") || line.contains("allow(unsafe_code)") {
                offences.push(format!("{}:{}", file.name, number + 1));
            }
        }
    }
    hold(
        "`unsafe` is outside its rooms (style: unsafe lives in few rooms)",
        offences,
    );
}

#[test]
fn pure_crates_know_no_clock_and_no_socket() {
    const FORBIDDEN: &[&str] = &[
        "std::time",
        "Instant",
        "SystemTime",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "std::fs",
        "std::thread::sleep",
    ];
    let pure = |name: &str| {
        (name.starts_with("engine/src/") || name.starts_with("engine/wire/src/"))
            || ["frame", "target", "host"]
                .iter()
                .any(|m| name == format!("transport/src/tcp/{m}.rs"))
    };
    let mut offences = Vec::new();
    for file in files(".rs").iter().filter(|file| pure(&file.name)) {
        for (number, line) in file.code() {
            for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
                offences.push(format!("{}:{number}: {word}", file.name));
            }
        }
    }
    hold("pure code is told the time and does no I/O", offences);
}

#[test]
fn files_are_short() {
    let offences = files(".rs")
        .iter()
        .filter(|file| !file.is_test())
        .map(|file| (file.name.clone(), file.code().len()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    hold(
        "a file has about 900 lines at most before its tests",
        offences,
    );
}

#[test]
fn nothing_is_left_undone() {
    // By their names alone, or whoever searches the tree for such marks finds this list.
    let macros = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!"));
    let switched_off = format!("#[{}", "ignore");
    let marks = [macros.as_slice(), &[switched_off]].concat();
    let mut offences = Vec::new();
    for file in files(".rs") {
        for (number, line) in file.text.lines().map(code_of).enumerate() {
            for mark in marks.iter().filter(|mark| line.contains(*mark)) {
                offences.push(format!("{}:{}: {mark}", file.name, number + 1));
            }
        }
    }
    hold("unfinished code does not land", offences);
}

#[test]
fn every_file_is_part_of_something() {
    let (sources, scripts) = (files(".rs"), files(""));
    let mut offences = Vec::new();
    for file in &sources {
        let path = Path::new(&file.name);
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let entry = ["lib", "main", "mod", "build"].contains(&stem.as_str())
            || ["tests", "benches", "bin", "examples"]
                .iter()
                .any(|dir| path.parent().is_some_and(|parent| parent.ends_with(dir)));
        let named = |other: &File| {
            let line = |line: &str| {
                line.trim_end().ends_with(&format!("mod {stem};"))
                    || line.contains(&format!("{stem}.rs\""))
            };
            other.text.lines().any(line)
        };
        // Some are compiled by a script.
        let run = |other: &File| {
            other.text.starts_with("#!") && other.text.contains(&format!("{stem}.rs"))
        };
        let part = sources
            .iter()
            .any(|other| other.name != file.name && named(other));
        if !entry && !part && !scripts.iter().any(run) {
            offences.push(file.name.clone());
        }
    }
    hold(
        "no module names this file, so nothing compiles it",
        offences,
    );
}

#[test]
fn crates_say_their_licence_and_keep_the_lints() {
    let mut offences = Vec::new();
    for file in files("Cargo.toml")
        .iter()
        .filter(|file| file.name != "Cargo.toml")
    {
        for line in [
            "license.workspace = true",
            "edition.workspace = true",
            "[lints]\nworkspace = true",
        ] {
            if !file.text.contains(line) {
                offences.push(format!(
                    "{}: `{}` is missing",
                    file.name,
                    line.replace('\n', " ")
                ));
            }
        }
    }
    for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
        if !root().join(name).exists() {
            offences.push(format!("{name} is missing"));
        }
    }
    hold(
        "every crate has the workspace's licence, edition and lints",
        offences,
    );
}

#[test]
fn scripts_can_be_run() {
    let mut offences = Vec::new();
    // What lies deeper is handed to a guest, or run by those that lie here.
    let entry = |file: &&File| file.text.starts_with("#!") && file.name.matches('/').count() == 1;
    for file in files("").iter().filter(entry) {
        let mode = fs::metadata(root().join(&file.name))
            .expect("it was just read")
            .permissions()
            .mode();
        if mode & 0o111 != 0o111 {
            offences.push(format!("{}: not executable", file.name));
        }
        // One command has nothing after it that a failure should stop.
        let several = file
            .text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .count()
            > 1;
        let bash = file
            .text
            .lines()
            .next()
            .is_some_and(|first| first.ends_with("bash"));
        if bash && several && !file.text.contains("set -e") {
            offences.push(format!("{}: no `set -e`", file.name));
        }
    }
    hold(
        "scripts are executable and stop at the first failure",
        offences,
    );
}
