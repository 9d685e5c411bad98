//! What kubelet sees of the agent from outside.

use std::net::TcpStream;

use crate::common::{SOON, enabled_node, get, options, served_at};

fn ok() -> (u16, String) {
    (200, "ok".to_owned())
}

#[test]
fn an_agent_is_ready_when_it_is_armed_and_whatever_the_api_does_afterwards() {
    let node = enabled_node();
    node.api().stop();
    let options = options().arg("--health-address=127.0.0.1:0").arg("--api-wait=60s");
    let agent = node.start_agent(&options).unwrap();
    let address = served_at(&agent, "health is served");
    // It starts, which takes as long as the API server takes; it is not to be killed for that.
    assert_eq!(get(address, "/livez"), ok());
    let (status, missing) = get(address, "/readyz");
    assert_eq!(status, 503);
    let missing: Vec<&str> = missing.lines().collect();
    assert_eq!(missing.len(), 4, "{missing:?}");
    for (line, reason) in missing.iter().zip(["programs", "pods", "namespaces", "cgroups"]) {
        assert!(line.starts_with("[-]") && line.contains(reason), "{missing:?}");
    }
    assert!(agent.logged("agent armed").is_empty());

    node.api().resume().unwrap();
    agent.wait_message(SOON, "agent armed").unwrap();
    assert_eq!(get(address, "/readyz"), ok());
    assert_eq!(get(address, "/livez"), ok());
    let (status, all) = get(address, "/readyz?verbose");
    assert_eq!((status, all.matches("[+]").count(), all.matches("[-]").count()), (200, 4, 0));

    node.api().stop();
    agent.wait_message(SOON, "watch interrupted; trying again").unwrap();
    assert_eq!(get(address, "/readyz"), ok());
    assert_eq!(get(address, "/livez"), ok());
    assert!(agent.stop(SOON).unwrap().success());
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn health_is_served_only_where_it_is_asked_for() {
    let node = enabled_node();
    let agent = node.start_agent(&options()).unwrap();
    agent.wait_message(SOON, "agent armed").unwrap();
    assert!(agent.logged("health is served").is_empty());
    let listening = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap();
    let inodes: Vec<String> = listening
        .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
        .filter_map(|link| {
            link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned)
        })
        .collect();
    /// `TCP_LISTEN` (include/net/tcp_states.h), as /proc/net/tcp writes it.
    const LISTEN: &str = "0A";
    for table in ["tcp", "tcp6"] {
        let table = std::fs::read_to_string(format!("/proc/{}/net/{table}", agent.pid())).unwrap();
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (state, inode) = (fields[3], fields[9]);
            assert!(state != LISTEN || !inodes.iter().any(|one| one == inode), "{line}");
        }
    }
}
