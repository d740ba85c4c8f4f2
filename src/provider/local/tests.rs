//! Real processes: what is started, listed, found again and ended.

use super::*;
use crate::provider::WorkerToken;

/// How long a process may take to do what it was told, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(20);

fn config(dir: &std::path::Path, script: &str) -> LocalConfig {
    LocalConfig {
        program: "/bin/sh".into(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        state_dir: dir.join("workers"),
        die_with_parent: false,
        workers_max: 2,
        kill_after: Duration::from_millis(200),
    }
}

fn request(worker: &str) -> PodRequest {
    PodRequest {
        worker: WorkerId(worker.to_owned()),
        name: format!("f.e.{worker}"),
        pool: "default".to_owned(),
        cell: None,
        token: WorkerToken("secret-token".to_owned()),
    }
}

/// Lists until `done` holds for the one pod.
async fn until(provider: &LocalProvider, done: impl Fn(&Pod) -> bool) -> Pod {
    let wait = async {
        loop {
            let listing = provider.list().await.unwrap();
            if let Some(pod) = listing.pods.into_iter().find(|pod| done(pod)) {
                return pod;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("the pod never came there")
}

async fn lines_with(provider: &LocalProvider, pod: &PodId, text: &str) -> Vec<String> {
    let wait = async {
        loop {
            let lines = provider.last_lines(pod).await.unwrap();
            if lines.iter().any(|line| line.contains(text)) {
                return lines;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("the line never came")
}

#[tokio::test]
async fn exit_code_signal_and_last_lines_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let check = async |script: &str, exit_code: Option<i32>, signal: Option<i32>| {
        let name = format!("gpu-{}-{}", exit_code.unwrap_or(0), signal.unwrap_or(0));
        let provider = LocalProvider::open(config(dir.path(), script)).unwrap();
        let pod = provider.create(&request(&name)).await.unwrap();
        let seen = until(&provider, |each| each.id == pod && each.status == PodStatus::Exited).await;
        assert_eq!((seen.exit_code, seen.signal), (exit_code, signal), "{script}");
        assert_eq!(seen.name, format!("f.e.{name}"));
        assert_eq!(provider.last_lines(&pod).await.unwrap(), ["last words"]);
        provider.terminate(&pod).await.unwrap();
        assert_eq!(provider.list().await.unwrap(), Listing::default());
        assert_eq!(provider.last_lines(&pod).await.unwrap(), ["last words"]);
    };
    check("echo last words; exit 7", Some(7), None).await;
    check("echo last words >&2; kill -9 $$", None, Some(9)).await;
}

#[tokio::test]
async fn the_token_is_in_the_environment_and_nothing_is_inherited() {
    let dir = tempfile::tempdir().unwrap();
    let provider =
        LocalProvider::open(config(dir.path(), "env; echo args: $0 $*; echo done; exec sleep 600")).unwrap();
    let pod = provider.create(&request("gpu-1")).await.unwrap();
    let lines = lines_with(&provider, &pod, "done").await;
    let mut names: Vec<_> = lines.iter().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    names.sort_unstable();
    assert_eq!(names, [DATA_DIR, WORKER_ID, WORKER_TOKEN, "PATH"]);
    assert!(lines.contains(&format!("{WORKER_TOKEN}=secret-token")), "{lines:?}");
    let state = std::fs::read_to_string(dir.path().join("workers/gpu-1.json")).unwrap();
    assert!(!state.contains("secret-token"), "{state}");
    provider.terminate(&pod).await.unwrap();
}

#[tokio::test]
async fn limits_and_doubles_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let provider = LocalProvider::open(config(dir.path(), "exec sleep 600")).unwrap();
    let first = provider.create(&request("gpu-1")).await.unwrap();
    assert!(matches!(provider.create(&request("gpu-1")).await, Err(ProviderError::Refused(_))));
    assert!(matches!(provider.create(&request("../gpu-2")).await, Err(ProviderError::Refused(_))));
    let second = provider.create(&request("gpu-2")).await.unwrap();
    assert!(matches!(provider.create(&request("gpu-3")).await, Err(ProviderError::Capacity(_))));
    for pod in [first, second] {
        provider.terminate(&pod).await.unwrap();
        provider.terminate(&pod).await.unwrap();
    }
    provider.terminate(&PodId("never-there".to_owned())).await.unwrap();
    let broken = LocalConfig { program: "/no/such/program".into(), ..config(dir.path(), "") };
    let provider = LocalProvider::open(broken).unwrap();
    assert!(matches!(provider.create(&request("gpu-4")).await, Err(ProviderError::Refused(_))));
    assert_eq!(provider.list().await.unwrap().pods, []);
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_any_more_leaves_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let provider = LocalProvider::open(config(dir.path(), "exec sleep 600")).unwrap();
    let mut given_up = 0;
    for number in 0..100 {
        let name = format!("gpu-given-up-{}-{number}", std::process::id());
        // As after a stop of this process that was longer than its patience.
        let asked = request(&name);
        if let Ok(pod) = tokio::time::timeout(Duration::ZERO, provider.create(&asked)).await {
            // It was started before anybody could lose patience.
            provider.terminate(&pod.unwrap()).await.unwrap();
            continue;
        }
        given_up += 1;
        let pod = provider.list().await.unwrap().pods.remove(0);
        assert_eq!((pod.id.0.as_str(), pod.status), (name.as_str(), PodStatus::Exited));
        let mark = format!("{WORKER_ID}={name}");
        let gone = async {
            // The order may still wait for the spawner; the next one is served after it.
            let next = provider.create(&request(&format!("gpu-next-{number}"))).await.unwrap();
            provider.terminate(&next).await.unwrap();
            while process::find_by_environment(&mark).is_some() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(LIMIT, gone).await.expect("its agent stays");
        provider.terminate(&pod.id).await.unwrap();
        if given_up == 5 {
            break;
        }
    }
    assert_eq!((given_up, provider.list().await.unwrap()), (5, Listing::default()));
}

#[tokio::test]
async fn a_deaf_agent_is_killed_with_all_of_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap '' TERM; sleep 600 & echo child $!; wait; wait; sleep 600";
    let provider = LocalProvider::open(config(dir.path(), script)).unwrap();
    let pod = provider.create(&request("gpu-1")).await.unwrap();
    let lines = lines_with(&provider, &pod, "child").await;
    let child: u32 = lines[0].strip_prefix("child ").unwrap().parse().unwrap();
    let child = ProcessKey::of(child).unwrap();
    provider.drain(&pod).await.unwrap();
    provider.terminate(&pod).await.unwrap();
    let wait = async {
        while child.is_alive() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("a process of the group outlived its agent");
}

#[tokio::test]
async fn a_restarted_orchestrator_finds_its_agents_again() {
    let dir = tempfile::tempdir().unwrap();
    let before =
        LocalProvider::open(config(dir.path(), "trap 'exit 3' TERM; while :; do sleep 0.05; done")).unwrap();
    let pod = before.create(&request("gpu-1")).await.unwrap();
    until(&before, |pod| pod.status == PodStatus::Running).await;

    let after = LocalProvider::open(config(dir.path(), "")).unwrap();
    let seen = until(&after, |_| true).await;
    assert_eq!((&seen.id, seen.status), (&pod, PodStatus::Running));
    assert!(matches!(after.create(&request("gpu-1")).await, Err(ProviderError::Refused(_))));
    after.drain(&pod).await.unwrap();
    let seen = until(&after, |pod| pod.status == PodStatus::Exited).await;
    assert_eq!((seen.exit_code, seen.signal), (None, None), "only a parent knows how its child ended");
    assert!(before.is_over(&pod.0));
}

#[tokio::test]
async fn an_agent_whose_pid_was_never_written_is_found_by_its_environment() {
    let dir = tempfile::tempdir().unwrap();
    let worker = format!("gpu-lost-{}", std::process::id());
    let before = LocalProvider::open(config(dir.path(), "exec sleep 600")).unwrap();
    let pod = before.create(&request(&worker)).await.unwrap();
    let mut file = before.lock()[&worker].file.clone();
    let process = file.process.take();
    before.files.save(&worker, &file).unwrap();

    let after = LocalProvider::open(config(dir.path(), "")).unwrap();
    assert_eq!(after.lock()[&worker].file.process, process);
    after.terminate(&pod).await.unwrap();
    assert!(before.is_over(&worker));
}

#[tokio::test]
async fn an_unreadable_state_file_makes_listings_partial() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("workers")).unwrap();
    std::fs::write(dir.path().join("workers/gpu-1.json"), "{").unwrap();
    let provider = LocalProvider::open(config(dir.path(), "")).unwrap();
    assert!(provider.list().await.unwrap().missing.unwrap().contains("gpu-1.json"));
}

#[tokio::test]
async fn output_is_cut_and_its_end_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let script = "yes filler | head -c 3000000; echo; echo the end; exec sleep 600";
    let provider = LocalProvider::open(config(dir.path(), script)).unwrap();
    let pod = provider.create(&request("gpu-1")).await.unwrap();
    lines_with(&provider, &pod, "the end").await;
    provider.list().await.unwrap();
    assert!(std::fs::metadata(dir.path().join("workers/gpu-1.log")).unwrap().len() < 3_000_000);
    assert_eq!(provider.last_lines(&pod).await.unwrap().last().unwrap(), "the end");
    provider.terminate(&pod).await.unwrap();
}
