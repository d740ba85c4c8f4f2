//! How programs end, and what the base is told.

use serde_json::{Value, json};

use super::{AgentConfig, AgentEnd, Base, as_role, config, eventually, is_running, run, shell};

/// What the base is told about a command.
async fn end_of(params: Value) -> Value {
    let base = Base::with_commands(&[params]).await;
    assert_eq!(run(config(&base)).await, AgentEnd::Ordered);
    let mut ends = base.ends();
    assert_eq!(ends.len(), 1);
    ends.remove(0)
}

async fn check_fails(params: Value, is_retryable: bool, words: &[&str]) {
    let end = end_of(params).await;
    assert_eq!(end["retryable"], is_retryable, "{end}");
    let error = end["error"].as_str().unwrap_or_else(|| panic!("no failure: {end}"));
    words.iter().for_each(|word| assert!(error.contains(word), "{word:?} is not in {error:?}"));
}

#[tokio::test]
async fn exit_0_is_complete_with_the_last_json_line_as_result() {
    let end = end_of(shell(r#"echo one; echo '{"frames": 3}'; echo noise >&2"#)).await;
    assert_eq!(end, json!({ "exit_code": 0, "stdout_tail": "one\n{\"frames\": 3}\n", "result": { "frames": 3 } }));
}

#[tokio::test]
async fn another_exit_code_fails_for_good_and_brings_the_last_lines() {
    check_fails(shell("echo out; echo no such model >&2; exit 3"), false, &["exit code 3", "no such model", "out"])
        .await;
}

#[tokio::test]
async fn a_signal_may_be_tried_again() {
    check_fails(shell("kill -9 $$"), true, &["SIGKILL"]).await;
    check_fails(shell("kill -11 $$"), true, &["SIGSEGV"]).await;
}

#[tokio::test]
async fn a_program_that_cannot_start_is_named() {
    let words = &["cannot be started", "no-such-program", "No such file"];
    check_fails(json!({ "argv": ["no-such-program"] }), false, words).await;
    check_fails(json!({ "argv": ["true"], "cwd": "/no/such/folder" }), false, &["/no/such/folder"]).await;
    check_fails(json!({ "argv": ["a\0b"] }), false, &["cannot be started"]).await;
    check_fails(json!({ "argv": [] }), false, &["argv"]).await;
}

#[tokio::test]
async fn the_guard_says_the_same() {
    let base =
        Base::with_commands(&[json!({ "argv": ["no-such-program"] }), shell("exit 4"), shell("exit 0")]).await;
    run(AgentConfig { guard_program: Some(as_role("as-guard")), ..config(&base) }).await;
    let ends = base.ends();
    let error = ends[0]["error"].as_str().unwrap();
    assert!(error.contains("cannot be started: no-such-program"), "{error}");
    assert!(ends[1]["error"].as_str().unwrap().contains("exit code 4"), "{ends:?}");
    assert_eq!(ends[2]["exit_code"], 0);
}

#[tokio::test]
async fn stdin_is_given_and_need_not_be_read() {
    let text = "line\n".repeat(100_000);
    let end = end_of(json!({ "argv": ["wc", "-c"], "stdin": text })).await;
    assert_eq!(end["stdout_tail"].as_str().unwrap().trim(), "500000");
    assert_eq!(end_of(json!({ "argv": ["true"], "stdin": text })).await["exit_code"], 0);
    assert_eq!(end_of(json!({ "argv": ["cat"] })).await["stdout_tail"], "");
}

#[tokio::test]
async fn of_much_output_the_end_is_kept() {
    let end = end_of(shell("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done")).await;
    let tail = end["stdout_tail"].as_str().unwrap();
    assert_eq!(tail.len(), 64 * 1024);
    assert!(tail.ends_with("line 19998\nline 19999\n"));
}

#[tokio::test]
async fn the_environment_names_the_task_and_holds_no_right_of_ours() {
    let base = Base::with_commands(&[json!({ "argv": ["env"] })]).await;
    let mut config = config(&base);
    // Cargo sets it for every test, so it would be there.
    config.hidden_env.push("CARGO_MANIFEST_DIR".into());
    run(config).await;
    let env = base.ends()[0]["stdout_tail"].as_str().unwrap().to_owned();
    for line in ["DOGWATCH_TASK_ID=", "DOGWATCH_TASK_ATTEMPT=1", "PYTHONUNBUFFERED=1", "PYTHONFAULTHANDLER=1"] {
        assert!(env.contains(line), "{line} is not in {env}");
    }
    assert!(env.contains("TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-"), "{env}");
    assert!(!env.contains("CARGO_MANIFEST_DIR") && !env.contains("s3cret"));
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_killed() {
    let end = end_of(shell("sleep 1000 & echo $!")).await;
    let pid = end["stdout_tail"].as_str().unwrap().to_owned();
    eventually("the left process is gone", || !is_running(&pid)).await;
    let quiet = end_of(shell("sleep 1000 >/dev/null 2>&1 & echo $!")).await;
    let pid = quiet["stdout_tail"].as_str().unwrap().to_owned();
    eventually("the quiet one, too", || !is_running(&pid)).await;
}

#[tokio::test]
async fn commands_from_the_queue_need_the_permission() {
    let base = Base::with(&[("command", shell("exit 0")), ("render", json!({ "frame": 7 }))]).await;
    run(AgentConfig { allow_commands: false, ..config(&base) }).await;
    let ends = base.ends();
    assert!(ends[0]["error"].as_str().unwrap().contains("--allow-commands"), "{ends:?}");
    assert!(ends[1]["error"].as_str().unwrap().contains("no program for tasks of type \"render\""), "{ends:?}");
    assert!(ends.iter().all(|end| end["retryable"] == false));
}

#[tokio::test]
async fn another_type_is_the_fixed_program_with_the_task_on_stdin() {
    let base = Base::with(&[("render", json!({ "frame": 7 }))]).await;
    run(AgentConfig { program: Some(vec!["cat".into()]), ..config(&base) }).await;
    let result = base.ends()[0]["result"].clone();
    assert_eq!((&result["params"]["frame"], &result["task_type"]), (&json!(7), &json!("render")));
}
