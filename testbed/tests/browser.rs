//! The browser sees what a page does wrong: a test that it finds nothing in proves something.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use testbed::{Browser, View};

/// Serves one page, whatever is asked for, and says where.
fn serve(head: &'static str, page: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            // A browser opens connections that it does not use.
            if stream.read(&mut request).is_ok_and(|read| read > 0) {
                let length = page.len();
                let _: std::io::Result<()> = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\
                     connection: close\r\n{head}\r\n{page}"
                );
            }
        }
    });
    format!("http://{address}/")
}

#[test]
fn what_a_page_does_wrong_is_seen() {
    let url = serve(
        "content-security-policy: default-src 'none'\r\n",
        "<!doctype html><title>bad</title><link rel=icon href=data:,>\
         <div id=wide style='width:2000px'>wide</div><script>console.log(1)</script>",
    );
    let browser = Browser::start().unwrap();
    let visit = browser.visit(&url, View::DESKTOP).unwrap();
    assert!(visit.console.iter().any(|line| line.contains("script-src")), "{:?}", visit.console);
    assert_eq!(visit.requests[0], url);

    let url = serve(
        "",
        "<!doctype html><link rel=icon href=data:,>\
         <div style='width:2000px'>wide</div><script>console.log('said')</script>",
    );
    let visit = browser.visit(&url, View::DESKTOP).unwrap();
    assert!(visit.console.iter().any(|line| line.contains("said")), "{:?}", visit.console);
    assert_eq!(visit.overflow().unwrap(), 2000 + 8 - 1440);
}

#[test]
fn a_good_page_is_quiet_and_looks_as_the_view_says() {
    let url = serve(
        "",
        "<!doctype html><meta name=viewport content='width=device-width'>\
         <link rel=icon href=data:,><p>good",
    );
    let browser = Browser::start().unwrap();
    for (view, dark) in [(View::PHONE, false), (View::DESKTOP.dark(), true)] {
        let visit = browser.visit(&url, view).unwrap();
        assert_eq!(visit.console, [""; 0]);
        assert_eq!(visit.overflow().unwrap(), 0);
        assert_eq!(visit.evaluate("innerWidth").unwrap(), view.width);
        assert_eq!(
            visit.evaluate("matchMedia('(prefers-color-scheme: dark)').matches").unwrap(),
            dark
        );
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("page.png");
        visit.screenshot(&file).unwrap();
        assert!(std::fs::read(file).unwrap().starts_with(b"\x89PNG"));
    }
}
