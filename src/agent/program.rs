//! Which program a task is: its argv, its stdin, its folder. Pure.
//!
//! `command` takes all three from the task, and only where the agent was started for that. Every
//! other type is the agent's own fixed program, which gets the task as one line of JSON.

use serde::Deserialize;
use serde_json::json;

use super::AgentConfig;
use crate::rpc::Claimed;

/// The task type whose argv comes with the task.
const COMMAND: &str = "command";

/// What is to be started.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) argv: Vec<String>,
    pub(super) stdin: Option<Vec<u8>>,
    pub(super) cwd: Option<String>,
}

#[derive(Deserialize)]
struct CommandParams {
    argv: Vec<String>,
    stdin: Option<String>,
    cwd: Option<String>,
}

/// The task's program, or why this agent has none for it. Another attempt would not change that.
pub(super) fn of(task: &Claimed, config: &AgentConfig) -> Result<Program, String> {
    if task.task_type == COMMAND {
        if !config.allow_commands {
            return Err("this agent does not run commands that come from the queue; start it with \
                        --allow-commands to let it"
                .to_owned());
        }
        return command(task);
    }
    let Some(argv) = config.program.clone().filter(|argv| !argv.is_empty()) else {
        return Err(format!(
            "this agent has no program for tasks of type {:?}; start one that has: dogwatch agent -- PROGRAM",
            task.task_type
        ));
    };
    let Claimed { task_id, attempt, task_type, params, user, .. } = task;
    let line =
        json!({ "task_id": task_id, "attempt": attempt, "task_type": task_type, "params": params, "user": user });
    Ok(Program { argv, stdin: Some(format!("{line}\n").into_bytes()), cwd: None })
}

fn command(task: &Claimed) -> Result<Program, String> {
    let expected =
        "expected params {\"argv\": [program, arguments...], \"stdin\": text or null, \"cwd\": folder or null}";
    let params = CommandParams::deserialize(&task.params).map_err(|error| format!("{expected}: {error}"))?;
    if params.argv.first().is_none_or(String::is_empty) {
        return Err(format!("{expected}: argv is empty"));
    }
    Ok(Program { argv: params.argv, stdin: params.stdin.map(String::into_bytes), cwd: params.cwd })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::fleet::ids::WorkerId;
    use crate::provider::WorkerToken;

    fn config() -> AgentConfig {
        AgentConfig::new("http://x", WorkerId("w".into()), WorkerToken("t".into()))
    }

    fn task(task_type: &str, params: Value) -> Claimed {
        let (task_id, task_type) = (uuid::Uuid::nil(), task_type.to_owned());
        Claimed { task_id, attempt: 2, task_type, params, traceparent: None, user: "u".into() }
    }

    #[test]
    fn a_command_needs_the_permission_and_names_it() {
        let command = task("command", json!({"argv": ["echo", "hi"], "stdin": "in"}));
        assert!(of(&command, &config()).unwrap_err().contains("--allow-commands"));
        let allowed = AgentConfig { allow_commands: true, ..config() };
        let program = of(&command, &allowed).unwrap();
        assert_eq!((program.argv, program.stdin), (vec!["echo".into(), "hi".into()], Some(b"in".to_vec())));
        for bad in [json!({}), json!({"argv": []}), json!({"argv": [""]}), json!({"argv": "ls"}), json!(null)] {
            assert!(of(&task("command", bad.clone()), &allowed).unwrap_err().contains("argv"), "{bad}");
        }
    }

    #[test]
    fn another_type_is_the_fixed_program_with_the_task_on_stdin() {
        let render = task("render", json!({"argv": ["rm"], "frame": 7}));
        assert!(of(&render, &config()).unwrap_err().contains("\"render\""));
        let fixed = AgentConfig { program: Some(vec!["render".into()]), allow_commands: true, ..config() };
        let program = of(&render, &fixed).unwrap();
        assert_eq!(program.argv, ["render"]);
        let line: Value = serde_json::from_slice(&program.stdin.unwrap()).unwrap();
        assert_eq!((&line["params"]["frame"], &line["attempt"]), (&json!(7), &json!(2)));
    }
}
