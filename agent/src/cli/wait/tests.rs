use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Command};

fn parse(arguments: &[&str]) -> Result<WaitArgs, String> {
    let arguments = ["holdfast", "wait"].iter().chain(arguments);
    match Cli::try_parse_from(arguments).map_err(|error| error.to_string())?.command {
        Command::Wait(args) => Ok(args),
        other => panic!("{other:?}"),
    }
}

fn plan(arguments: &[&str]) -> Plan {
    parse(arguments).unwrap().plan(Tool::Holdfast)
}

fn os(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn urls(plan: &Plan) -> Vec<String> {
    plan.endpoints.iter().map(Endpoint::to_string).collect()
}

#[test]
fn without_an_option_both_proxies_are_asked_quickly() {
    let plan = plan(&["--", "app", "--flag"]);
    assert_eq!(plan.tool, Tool::Holdfast);
    assert_eq!(
        urls(&plan),
        ["http://localhost:15021/healthz/ready", "http://localhost:4191/ready"]
    );
    assert_eq!(plan.interval, Duration::from_millis(50));
    assert_eq!(plan.timeout, Some(Duration::from_secs(60)));
    assert_eq!(plan.command, os(&["app", "--flag"]));
}

#[test]
fn options_of_pilot_agent_choose_its_defaults() {
    for arguments in [
        &["--timeoutSeconds", "60"][..],
        &["--timeoutSeconds=60"],
        &["--requestTimeoutMillis", "500"],
        &["--periodMillis", "500"],
        &["--url", "http://localhost:15021/healthz/ready"],
    ] {
        let plan = plan(arguments);
        assert_eq!(plan.tool, Tool::PilotAgent, "{arguments:?}");
        assert_eq!(urls(&plan), ["http://localhost:15021/healthz/ready"]);
        assert_eq!(plan.timeout, Some(Duration::from_secs(60)));
        assert_eq!(plan.request_timeout, Some(Duration::from_millis(500)));
        assert_eq!(plan.interval, Duration::from_millis(500));
        assert_eq!(plan.command, [""; 0]);
    }
    let plan = plan(&[
        "--timeoutSeconds=5",
        "--requestTimeoutMillis=0",
        "--periodMillis=7",
        "--url=http://localhost:15020/healthz/ready",
    ]);
    assert_eq!(urls(&plan), ["http://localhost:15020/healthz/ready"]);
    assert_eq!(plan.timeout, Some(Duration::from_secs(5)));
    assert_eq!(plan.request_timeout, None);
    assert_eq!(plan.interval, Duration::from_millis(7));
}

#[test]
fn options_of_linkerd_await_choose_its_defaults() {
    for arguments in [
        &["--port", "4191"][..],
        &["-p4191"],
        &["--backoff", "1s"],
        &["--timeout=0"],
        &["--timeout-fatal", "app"],
        &["-v"],
    ] {
        let plan = parse(arguments).unwrap().linkerd_await_plan(|_| None);
        assert_eq!(plan.tool, Tool::LinkerdAwait, "{arguments:?}");
        assert_eq!(urls(&plan), ["http://localhost:4191/ready"]);
        assert_eq!(plan.timeout, None);
        assert_eq!(plan.request_timeout, Some(Duration::from_secs(5)));
        assert_eq!(plan.interval, Duration::from_secs(1));
        assert!(plan.timeout_fatal);
        assert_eq!(plan.shutdown, None);
        assert_eq!(plan.disabled, None);
    }
    let plan =
        plan(&["-p1", "-t", "2m", "-b200ms", "-S", "--timeout-fatal=false", "--", "a", "-b"]);
    assert_eq!(plan.tool, Tool::LinkerdAwait);
    assert_eq!(plan.timeout, Some(Duration::from_secs(120)));
    assert_eq!(plan.interval, Duration::from_millis(200));
    assert!(!plan.timeout_fatal);
    assert_eq!(plan.shutdown.unwrap().to_string(), "http://localhost:1/shutdown");
    assert_eq!(plan.command, os(&["a", "-b"]));
}

#[test]
fn the_environment_disables_linkerd_await_as_it_does_there() {
    for (variables, disabled, verbose) in [
        (&[("LINKERD_DISABLED", "")][..], None, false),
        (&[("LINKERD_DISABLED", "no mesh")], Some("no mesh"), false),
        (&[("LINKERD_AWAIT_DISABLED", "a"), ("LINKERD_DISABLED", "b")], Some("a"), false),
        (&[("LINKERD_AWAIT_DISABLED", ""), ("LINKERD_DISABLED", "b")], Some("b"), false),
        (&[("LINKERD_AWAIT_VERBOSE", "true")], None, true),
        (&[("LINKERD_AWAIT_VERBOSE", "false")], None, false),
    ] {
        let variable = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let plan = parse(&[]).unwrap().linkerd_await_plan(variable);
        assert_eq!(plan.disabled.as_deref(), disabled, "{variables:?}");
        assert_eq!(plan.verbose, verbose, "{variables:?}");
    }
}

#[test]
fn options_of_both_tools_and_bad_values_are_refused() {
    for arguments in [
        &["--url", "http://localhost:15021/", "--port", "4191"][..],
        &["--timeoutSeconds", "5", "--timeout", "5s"],
        &["-v", "--periodMillis", "5"],
        &["--shutdown", "--url", "http://localhost:1/", "app"],
        &["--shutdown"],
        &["--timeout-fatal=false"],
        &["--timeout-fatal=maybe", "app"],
        &["--timeout", "5"],
        &["--timeout", "-5s"],
        &["--port", "0"],
        &["--port", "65536"],
        &["--timeoutSeconds", "-1"],
        &["--periodMillis", "1.5"],
        &["--url", "https://localhost:15021/"],
        &["--url", "localhost"],
        &["--bogus"],
        &["--bogus", "app"],
    ] {
        assert!(parse(arguments).is_err(), "{arguments:?}");
    }
    let error = parse(&["--url", "http://localhost:1/", "--port", "1"]).unwrap_err();
    assert!(error.contains("'--url <URL>' cannot be used with"), "{error}");
}

#[test]
fn what_follows_the_command_is_its_own() {
    for (arguments, expected) in [
        (&["app", "--timeoutSeconds", "5"][..], &["app", "--timeoutSeconds", "5"][..]),
        (&["--", "-x"], &["-x"]),
        (&["app", "--", "-x"], &["app", "--", "-x"]),
    ] {
        let plan = plan(arguments);
        assert_eq!((plan.tool, plan.command), (Tool::Holdfast, os(expected)), "{arguments:?}");
    }
}

#[test]
fn the_name_that_it_is_called_by_chooses_as_the_options_do() {
    for (words, arguments, tool) in [
        (&["holdfast", "run"][..], &["holdfast", "run"][..], Tool::Holdfast),
        (&["/usr/bin/holdfast", "wait"], &["/usr/bin/holdfast", "wait"], Tool::Holdfast),
        (
            &["/usr/lib/linkerd/linkerd-await", "--timeout=2m", "--port=4191"],
            &["holdfast", "wait", "--timeout=2m", "--port=4191"],
            Tool::LinkerdAwait,
        ),
        (&["./my-linkerd-await"], &["holdfast", "wait"], Tool::LinkerdAwait),
        (&["pilot-agent", "wait"], &["holdfast", "wait"], Tool::PilotAgent),
        (
            &["/usr/local/bin/pilot-agent", "wait", "--periodMillis=5"],
            &["holdfast", "wait", "--periodMillis=5"],
            Tool::PilotAgent,
        ),
        (&["pilot-agent", "run"], &["holdfast", "pilot-agent run"], Tool::PilotAgent),
        (&["pilot-agent"], &["holdfast", "pilot-agent"], Tool::PilotAgent),
        (&[], &[], Tool::Holdfast),
    ] {
        let expected = Invocation { arguments: os(arguments), tool };
        assert_eq!(Invocation::new(os(words)), expected, "{words:?}");
    }
    assert_eq!(parse(&[]).unwrap().plan(Tool::PilotAgent).tool, Tool::PilotAgent);
    assert_eq!(plan(&["-v"]).tool, Tool::LinkerdAwait);
    assert_eq!(parse(&["-v"]).unwrap().plan(Tool::PilotAgent).tool, Tool::LinkerdAwait);
}
