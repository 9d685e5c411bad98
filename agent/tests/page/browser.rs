//! As people see it, by day and by night, on a telephone and on a desktop. The pictures are in
//! target/page/.

use std::{
    fs,
    path::{Path, PathBuf},
};

use holdfast::page::{self, Form};
use testbed::{Browser, View};

use super::scene::{self, HOSTILE, Scene};

const VIEWS: [(&str, View); 4] = [
    ("phone", View::PHONE),
    ("phone-dark", View::PHONE.dark()),
    ("desktop", View::DESKTOP),
    ("desktop-dark", View::DESKTOP.dark()),
];

fn directory() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../page");
    fs::create_dir_all(&directory).unwrap();
    directory.canonicalize().unwrap()
}

/// Writes a page to a file that a browser can open.
fn write(name: &str, page: &str) -> String {
    let file = directory().join(format!("{name}.html"));
    fs::write(&file, page).unwrap();
    format!("file://{}", file.display())
}

/// What a browser has to say against a page, and what it looks like.
fn look(browser: &Browser, name: &str, page: &str) {
    let url = write(name, page);
    for (view_name, view) in VIEWS {
        let visit = browser.visit(&url, view).unwrap();
        let what = format!("{name} on {view_name}");
        assert_eq!(visit.console, [""; 0], "{what}");
        assert_eq!(visit.overflow().unwrap(), 0, "{what} is too wide");
        let foreign: Vec<_> = visit
            .requests
            .iter()
            .filter(|request| **request != url && !request.starts_with("data:"))
            .collect();
        assert!(foreign.is_empty(), "{what} asks for {foreign:?}");
        // Nobody else's element, no script, nothing that would be loaded.
        let odd = "[...document.querySelectorAll('script, img, iframe, object, embed, form, b, [onerror]')]
            .map(element => element.outerHTML).join('\\n')";
        assert_eq!(visit.evaluate(odd).unwrap(), "", "{what}");
        let squeezed = "[...document.querySelectorAll('td, th, dd, p, li, h1, h3')].filter(element => {
            const style = getComputedStyle(element);
            const room = element.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
            return element.checkVisibility() && element.textContent.length > 12 && room < 50
                && element.closest('thead, .legend') === null;
        }).map(element => element.outerHTML).join('\\n')";
        assert_eq!(visit.evaluate(squeezed).unwrap(), "", "{what}");
        visit.screenshot(&directory().join(format!("{name}-{view_name}.png"))).unwrap();
    }
}

#[test]
fn an_ordinary_node_looks_well_everywhere() {
    let browser = Browser::start().unwrap();
    let scene = scene::ordinary();
    look(&browser, "node", &page::node(&scene.facts(), Form::File));
    let served = Form::Served { refresh: false };
    let pod = page::pod(&scene.facts(), "shop", "checkout-7c9b5d6f4-xk2lp", served).unwrap();
    look(&browser, "pod", &pod);
    let empty = Scene { pods: Vec::new(), episodes: Vec::new(), ..scene };
    look(&browser, "empty", &page::node(&empty.facts(), Form::File));
    look(&browser, "without-pods", &page::without_pods(&empty.node, Form::File));
}

#[test]
fn nothing_of_a_hostile_name_becomes_an_element() {
    let browser = Browser::start().unwrap();
    let scene = scene::hostile();
    look(&browser, "hostile", &page::node(&scene.facts(), Form::File));
    for pod in &scene.pods {
        let name = pod.pod.name.as_ref().unwrap();
        let form = Form::Served { refresh: false };
        let page = page::pod(&scene.facts(), &name.namespace, &name.name, form).unwrap();
        look(&browser, "hostile-pod", &page);
    }
    // What they chose is there to be read all the same.
    let url = write("hostile-text", &page::node(&scene.facts(), Form::Served { refresh: false }));
    let visit = browser.visit(&url, View::DESKTOP).unwrap();
    let text = visit.evaluate("document.body.textContent").unwrap();
    for name in [HOSTILE[0], HOSTILE[1], HOSTILE[2]] {
        assert!(text.as_str().unwrap().contains(name), "{name}");
    }
    // A link leads to this page's own paths, whatever the pod is called.
    let links = "[...document.links].map(link => link.getAttribute('href'))
        .filter(href => !/^(#[a-z]+|[/]([?]save)?|[?](refresh=off)?|[/]pods[/][A-Za-z0-9._~%-]+[/][A-Za-z0-9._~%-]+)$/.test(href))
        .join(' ')";
    assert_eq!(visit.evaluate(links).unwrap(), "");
}
