//! The node page, of a real agent in a real browser.

use std::path::Path;

use serde_json::Value;
use testbed::{Agent, Browser, Command, PodSpec, View, Visit, backend_v4};

use crate::common::{
    SOON, dials, enabled_node, eventually, get, options, served_at, start_agent_with, wait_for,
};

/// What a tenant may call a process: `TASK_COMM_LEN` leaves 15 bytes.
const EVIL: &str = "<img src=x>\u{202e}";

/// A connect of a process that is called so.
fn evil_client() -> Command {
    let script = format!(
        "import ctypes, socket\n\
         ctypes.CDLL(None).prctl(15, '{EVIL}'.encode())\n\
         socket.create_connection(('{}', {}))\n",
        backend_v4().ip(),
        backend_v4().port()
    );
    Command::new("python3").args(["-c", &script])
}

/// Loads the page, and fails if the browser has anything to say against it.
fn visit<'a>(browser: &'a Browser, url: &str, view: View) -> Visit<'a> {
    let visit = browser.visit(url, view).unwrap();
    assert_eq!(visit.console, [""; 0]);
    assert_eq!(visit.overflow().unwrap(), 0);
    let others: Vec<&String> = visit
        .requests
        .iter()
        .filter(|asked| *asked != url && !asked.starts_with("data:"))
        .collect();
    assert!(others.is_empty(), "the page asks for {others:?}");
    assert_eq!(visit.evaluate("document.querySelectorAll('img, script').length").unwrap(), 0);
    visit
}

/// The text of the first element that is selected; empty if there is none.
fn text(visit: &Visit<'_>, selector: &str) -> String {
    let found = format!("document.querySelector({selector:?})?.textContent ?? ''");
    match visit.evaluate(&found).unwrap() {
        Value::String(text) => text.replace('\u{a0}', " "),
        other => panic!("{selector}: {other}"),
    }
}

fn url(agent: &Agent, path: &str) -> String {
    format!("http://{}{path}", served_at(agent, "the node page is served"))
}

#[test]
fn a_start_is_drawn_while_it_waits_and_when_it_is_over() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &options().arg("--page-address=127.0.0.1:0"));
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let app = dials(&pod, "app", backend_v4());
    let evil = pod.exec("app", evil_client()).unwrap();
    let held = |agent: &Agent| agent.logged("connect held").len();
    eventually("both connects are held", || held(&agent) == 2);

    let browser = Browser::start().unwrap();
    // Every five seconds it shows itself anew: not while it is looked at.
    let overview = url(&agent, "/?refresh=off");
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../page");
    for (name, view) in [("held-phone", View::PHONE), ("held-desktop", View::DESKTOP)] {
        let visit = visit(&browser, &overview, view);
        assert_eq!(text(&visit, "article .badge"), "holding");
        let story = text(&visit, "article .story");
        assert!(story.starts_with("2 connects wait, the first for "), "{story}");
        let about = text(&visit, "article svg desc");
        assert!(about.starts_with("shop/cart. 2 connects wait"), "{about}");
        let names = text(&visit, "article .names");
        for name in ["app", &format!("→ {}", backend_v4()), "<img src=x>\\u{202e}"] {
            assert!(names.contains(name), "{name}: {names}");
        }
        assert_eq!(
            visit.evaluate("document.querySelectorAll('article .waiting rect').length").unwrap(),
            2
        );
        visit.screenshot(&pictures.join(format!("{name}.png"))).unwrap();
    }

    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    assert!(app.wait_attempt(SOON).unwrap().is_connected());
    wait_for(&agent, &pod, "gate detached");
    let visit = visit(&browser, &url(&agent, "/pods/shop/cart?refresh=off"), View::DESKTOP.dark());
    assert_eq!(text(&visit, "h1"), "shop/cart");
    assert_eq!(text(&visit, "article .badge"), "released");
    assert_eq!(text(&visit, "article .flag.ready"), "proxy ready");
    let story = text(&visit, "article .story");
    assert!(
        story.starts_with("2 connects waited, ") && story.contains("the proxy started after"),
        "{story}"
    );
    assert_eq!(
        visit.evaluate("document.querySelectorAll('article .released .end').length").unwrap(),
        2
    );
    visit.screenshot(&pictures.join("released-desktop-dark.png")).unwrap();
    drop((evil, proxy));
}

#[test]
fn a_page_that_was_asked_for_and_cannot_be_served_is_an_error() {
    let node = enabled_node();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let agent = node.start_agent(&options().arg(format!("--page-address={address}"))).unwrap();
    assert_eq!(agent.wait_exit(SOON).unwrap().code(), Some(69));
    let told = agent.stderr().join("\n");
    assert!(told.contains(&address.to_string()) && told.contains("--page-address"), "{told}");
}

#[test]
fn who_stands_by_says_so_on_its_page() {
    let node = enabled_node();
    let working = start_agent_with(&node, &options().arg("--page-address=127.0.0.1:0"));
    let standing_by = node.start_agent(&options().arg("--page-address=127.0.0.1:0")).unwrap();
    let address = served_at(&standing_by, "the node page is served");
    eventually("the second stands by", || {
        get(address, "/").1.contains("Another agent works the gates of this node")
    });
    let (status, page) = get(served_at(&working, "the node page is served"), "/");
    assert!(status == 200 && page.contains("No pod of this node is held"), "{page}");
}
