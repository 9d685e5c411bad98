//! The page as text: what is in it, and how much.

use holdfast::{
    core::{Episode, PodState},
    page::{self, Form},
};

use super::scene::{self, HOSTILE, Scene};

const SERVED: Form = Form::Served { refresh: true };

/// A page that takes a browser a second to show is none that is shown anew every five.
const MAX_BYTES: usize = 2_000_000;

#[test]
fn a_crowded_node_fits_a_page() {
    let scene = scene::crowded(500, 128);
    for form in [SERVED, Form::File] {
        let page = page::node(&scene.facts(), form);
        assert!(page.len() < MAX_BYTES, "{} bytes", page.len());
    }
    let name = scene.episodes[0].pod.name.as_ref().unwrap();
    let pod = page::pod(&scene.facts(), &name.namespace, &name.name, SERVED).unwrap();
    assert_eq!(pod.matches("<li title=").count(), Episode::MAX_CONNECTS + Episode::MAX_CONTAINERS);
}

#[test]
fn only_a_served_page_shows_itself_anew_and_leads_to_others() {
    let scene = scene::ordinary();
    let refresh = "http-equiv=\"refresh\"";
    let served = page::node(&scene.facts(), SERVED);
    assert!(
        served.contains(refresh) && served.contains("href=\"/pods/shop/cart-6d5f7b9c8-2mzvq\"")
    );
    assert!(!page::node(&scene.facts(), Form::Served { refresh: false }).contains(refresh));
    let file = page::node(&scene.facts(), Form::File);
    assert!(!file.contains(refresh) && !file.contains("href=\"/"));
}

#[test]
fn a_pod_has_a_page_as_long_as_anything_is_known_of_it() {
    let scene = scene::ordinary();
    let of = |namespace, name| page::pod(&scene.facts(), namespace, name, SERVED);
    assert!(of("shop", "inventory-0").unwrap().contains("it must be a duration"));
    assert!(of("batch", "report-28471-9xw2k").unwrap().contains("The pod is gone"));
    assert_eq!(of("shop", "nobody"), None);
    assert_eq!(of("batch", "inventory-0"), None);
}

#[test]
fn what_acts_on_a_reader_is_shown_as_its_escape() {
    let scene = scene::hostile();
    let mut pages =
        vec![page::node(&scene.facts(), SERVED), page::without_pods(&scene.node, SERVED)];
    pages.extend(scene.pods.iter().map(|pod| {
        let name = pod.pod.name.as_ref().unwrap();
        page::pod(&scene.facts(), &name.namespace, &name.name, SERVED).unwrap()
    }));
    for page in pages {
        assert_eq!(page.matches("</style>").count(), 1);
        let acts = |c: char| match c {
            '\n' => false,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => true,
            c => c.is_control(),
        };
        assert_eq!(page.chars().find(|c| acts(*c)), None);
        for name in &HOSTILE[..3] {
            assert!(!page.contains(name), "{name}");
        }
    }
}

#[test]
fn problems_of_the_node_and_its_states_are_told() {
    let mut scene = scene::ordinary();
    scene.node.problems = vec!["12 reports of the kernel were lost".to_owned()];
    let page = page::node(&scene.facts(), SERVED);
    assert!(page.contains("12 reports of the kernel were lost"));
    for state in [PodState::Closed, PodState::GivenUp, PodState::Guarded, PodState::Open] {
        assert!(page.contains(&format!(">{}</span>", state.as_str())), "{state:?}");
    }
    let quiet = Scene { pods: Vec::new(), episodes: Vec::new(), ..scene };
    let page = page::node(&quiet.facts(), SERVED);
    assert!(
        page.contains("No gate has been closed") && page.contains("No pod of this node is held")
    );
}
