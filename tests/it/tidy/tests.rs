//! The tree is tidy; and each rule catches a fault of its kind, planted here, and leaves the
//! look-alikes alone.

use expect_test::{Expect, expect};

use super::{File, check, tree};

#[test]
fn the_tree_is_tidy() {
    let files = tree();
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "the tree was not found");
    let faults: Vec<String> = check(&files).iter().map(ToString::to_string).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// Checks files written as `== path` and then their text. Rust files get a header, and a parent
/// that declares them, unless they bring their own.
fn planted(text: &str, expected: &Expect) {
    let mut files: Vec<File> = Vec::new();
    for part in text.split("== ").skip(1) {
        let (path, text) = part.split_once('\n').expect("a path and a text");
        files.push(File { path: path.trim().to_owned(), text: text.to_owned() });
    }
    let mut parents: Vec<File> = Vec::new();
    for file in &files {
        let Some((folder, name)) = file.path.trim_end_matches(".rs").rsplit_once('/') else { continue };
        let parent = if folder == "src" { "src/lib.rs".to_owned() } else { format!("{folder}.rs") };
        let known = |file: &&mut File| file.path == parent;
        let declaration = format!("mod {name};\n");
        if let Some(found) = parents.iter_mut().find(known) {
            found.text.push_str(&declaration);
        } else {
            parents.push(File { path: parent, text: format!("//! Parent.\n{declaration}") });
        }
    }
    parents.retain(|parent| files.iter().all(|file| file.path != parent.path));
    let names: Vec<String> = parents.iter().map(|parent| parent.path.clone()).collect();
    files.extend(parents);
    let mut printed = String::new();
    for fault in check(&files).iter().filter(|fault| !names.contains(&fault.path)) {
        printed.push_str(&format!("{fault}\n"));
    }
    expected.assert_eq(&printed);
}

#[test]
fn a_module_imports_only_lower_layers() {
    planted(
        "== src/telemetry/shipper.rs\n\
         //! Header.\n\
         use std::time::Duration;\n\
         use crate::{clock, fleet::{ids::TaskId, task}};\n\
         use crate::supervise::thread;\n\
         fn f() { crate::store::open(); }\n\
         == src/supervise.rs\n\
         //! Header.\n\
         use super::telemetry::record;\n\
         use super::backoff::Backoff;\n\
         == src/clock.rs\n\
         //! Header.\n\
         use crate::error::BadInput;\n\
         == src/provider/local.rs\n\
         //! Header.\n\
         use super::super::store::Store;\n\
         use super::Provider;\n\
         mod inner { use super::super::super::agent::Agent; use super::super::Pod; }\n",
        &expect![[r#"
            src/clock.rs:2: layer: `clock` may not import `crate::error::BadInput`
            src/provider/local.rs:2: layer: `provider` may not import `crate::store::Store`
            src/provider/local.rs:4: layer: `provider` may not import `crate::agent::Agent`
            src/supervise.rs:2: layer: `supervise` may not import `crate::telemetry::record`
            src/telemetry/shipper.rs:3: layer: `telemetry` may not import `crate::fleet::ids::TaskId`
            src/telemetry/shipper.rs:3: layer: `telemetry` may not import `crate::fleet::task`
            src/telemetry/shipper.rs:5: layer: `telemetry` may not import `crate::store::open`
        "#]],
    );
}

#[test]
fn inside_a_layer_only_what_is_allowed() {
    planted(
        "== src/explain.rs\n\
         //! Header.\n\
         use crate::orchestrator::observer;\n\
         use crate::watch::rules;\n\
         == src/orchestrator.rs\n\
         //! Header.\n\
         use crate::telemetry;\n\
         use crate::agent::session;\n\
         use crate::store::Store;\n\
         == src/cli.rs\n\
         //! Header.\n\
         use crate::config::Config;\n\
         use crate::gateway;\n\
         == src/config.rs\n\
         //! Header.\n\
         use crate::cli::Arguments;\n\
         == src/helpers.rs\n\
         //! Header.\n\
         == src/gateway.rs\n\
         //! Header.\n\
         use crate::Shortcut;\n\
         pub(crate) fn f() {}\n\
         #[cfg(test)]\n\
         mod tests { use crate::cli::run; }\n",
        &expect![[r#"
            src/config.rs:2: layer: `config` may not import `crate::cli::Arguments`
            src/explain.rs:3: layer: `explain` may not import `crate::watch::rules`
            src/gateway.rs:2: layer: `crate::Shortcut` is in no layer
            src/gateway.rs:5: layer: `gateway` may not import `crate::cli::run`
            src/helpers.rs:1: layer: `helpers` is in no layer
            src/orchestrator.rs:2: layer: `orchestrator` may not import `crate::telemetry`
            src/orchestrator.rs:3: layer: `orchestrator` may not import `crate::agent::session`
        "#]],
    );
}

#[test]
fn pure_modules_are_pure() {
    planted(
        "== src/fleet/decision.rs\n\
         //! Header: std::fs::read is only talk here, and so is \"tokio::spawn\".\n\
         use std::fs;\n\
         use std::io::{Error, Read as _};\n\
         use std::collections::BTreeMap;\n\
         use std::time::{Duration, SystemTime as Wall};\n\
         use crate::clock::{self, Time};\n\
         async fn f() { let _ = (clock::now(), Time::now(), clock::plus(t, d)); }\n\
         fn g() { tokio::spawn(x); let text = \"std::net::TcpStream\"; rand::random::<u8>(); }\n\
         #[cfg(test)]\n\
         mod tests { use std::fs; async fn f() { fs::read(p).await; crate::clock::now(); } }\n\
         fn h() { later.await }\n\
         == src/backoff.rs\n\
         //! Header.\n\
         fn f() -> std::time::Instant { std::time::Instant::now() }\n\
         == src/telemetry/spool/frame.rs\n\
         //! Header.\n\
         use std::fs::File;\n\
         == src/telemetry/delivery/tests.rs\n\
         //! Header.\n\
         use std::fs::File;\n\
         == src/telemetry/exporter/sqlite/retention.rs\n\
         //! Header.\n\
         async fn f() { sqlx::query(text).await }\n\
         == src/telemetry/spool/segment.rs\n\
         //! Header.\n\
         use std::fs::File;\n",
        &expect![[r#"
            src/backoff.rs:2: pure: a pure module may not name `std::time::Instant::now`
            src/backoff.rs:2: pure: a pure module may not name `std::time::Instant`
            src/fleet/decision.rs:2: pure: a pure module may not name `std::fs`
            src/fleet/decision.rs:3: pure: a pure module may not name `std::io::Read`
            src/fleet/decision.rs:5: pure: a pure module may not name `std::time::SystemTime`
            src/fleet/decision.rs:7: pure: a pure module may not be `async`
            src/fleet/decision.rs:7: pure: a pure module may not name `crate::clock::Time::now`
            src/fleet/decision.rs:7: pure: a pure module may not name `crate::clock::now`
            src/fleet/decision.rs:8: pure: a pure module may not name `rand::random`
            src/fleet/decision.rs:8: pure: a pure module may not name `tokio::spawn`
            src/fleet/decision.rs:11: pure: a pure module may not be `await`
            src/telemetry/spool/frame.rs:2: pure: a pure module may not name `std::fs::File`
        "#]],
    );
}

#[test]
fn files_and_functions_are_short() {
    let statements = |count: usize| "    x();\n".repeat(count);
    let long = format!(
        "== src/rpc.rs\n//! Header.\n\
         fn short<A, B>(f: fn(A) -> B) -> impl Iterator<Item = A> {{\n{}}}\n\
         fn commented() {{\n{}{}}}\n\
         async fn long() {{\n{}}}\n\
         == src/store/sqlite.rs\n//! Header.\n{}",
        statements(70),
        statements(70),
        "    // why\n\n".repeat(20),
        statements(71),
        "const A: u8 = 1;\n".repeat(500),
    );
    planted(
        &long,
        &expect![[r#"
            src/rpc.rs:186: function length: `long` has 71 lines; at most 70
            src/store/sqlite.rs:501: file length: 501 lines; at most 500
        "#]],
    );
}

#[test]
fn no_blobs() {
    planted(
        &format!("== docs/picture.svg\n{}", "x".repeat(512 * 1024 + 1)),
        &expect![[r#"
            docs/picture.svg:1: blob: 524289 bytes; at most 524288
        "#]],
    );
}

#[test]
fn headers_names_and_declarations() {
    planted(
        "== src/store/mod.rs\n\
         //! Header.\n\
         == src/clock.rs\n\
         // Only a comment.\n\
         == src/watch.rs\n\
         //! Header.\n\
         pub mod rules;\n\
         == src/watch/rules.rs\n\
         //! Header.\n\
         == src/watch/forgotten.rs\n\
         //! Header.\n",
        &expect![[r#"
            src/clock.rs:1: header: begins with no `//!` header
            src/store/mod.rs:1: no mod.rs: name it after its folder and put it beside
            src/watch/forgotten.rs:1: declared: no `mod forgotten` in src/watch.rs
        "#]],
    );
}

#[test]
fn unsafe_only_in_the_ring() {
    planted(
        "== src/telemetry/ring/map.rs\n\
         //! Header.\n\
         fn f() { unsafe { g() } }\n\
         == src/telemetry/layer.rs\n\
         //! Header.\n\
         // unsafe is a word here.\n\
         fn f() { unsafe { g() } }\n",
        &expect![[r#"
            src/telemetry/layer.rs:3: unsafe: only telemetry/ring may
        "#]],
    );
}

#[test]
fn nothing_unfinished_ignored_or_allowed() {
    planted(
        "== src/agent.rs\n\
         //! Header.\n\
         fn f() { todo!() } // FIXME later\n\
         fn g() { let a = \"TODO\"; let b = 'x'; let c: &'static str = r#\"// TODO \"#; unimplemented!(); }\n\
         #[allow(dead_code)]\n\
         #[expect(dead_code, reason = \"to allow it\")]\n\
         #[test]\n\
         #[ignore]\n\
         fn h() {}\n\
         #[cfg_attr(unix, should_panic)]\n\
         fn i() {}\n\
         /* /* TODO nested */ */\n\
         == scripts/test.sh\n\
         # TODO\n",
        &expect![[r#"
            scripts/test.sh:1: unfinished: TODO
            src/agent.rs:2: unfinished: FIXME in a comment
            src/agent.rs:2: unfinished: todo!
            src/agent.rs:3: unfinished: unimplemented!
            src/agent.rs:4: attribute: #[allow] is not used here
            src/agent.rs:7: attribute: #[ignore] is not used here
            src/agent.rs:9: attribute: #[should_panic] is not used here
            src/agent.rs:11: unfinished: TODO in a comment
        "#]],
    );
}

#[test]
fn a_page_has_one_title() {
    planted(
        "== README.md\n\
         # One\n\
         ```sh\n\
         # a comment\n\
         ```\n\
         ## Part\n\
         # Two\n\
         == docs/a.md\n\
         # One\n\
         == docs/b.md\n\
         text\n",
        &expect![[r#"
            README.md:1: one title: 2 titles
            docs/b.md:1: one title: 0 titles
        "#]],
    );
}
