use std::time::Duration;

use unicode_width::UnicodeWidthStr as _;

use super::{super::table::WIDTH, *};
use crate::core::{
    ConnectReport, PodName, PodRef, PodUid, ProxyReport, SettingReport, SocketCookie,
};

fn at(seconds: u64) -> Stamp {
    Stamp::new(Duration::from_secs(1_700_000_000 + seconds))
}

fn setting(key: &str, value: &str, origin: Origin) -> SettingReport {
    let source = format!("label holdfast.dev/{key}");
    SettingReport { key: key.to_owned(), value: value.to_owned(), origin, source }
}

fn pod(namespace: &str, name: &str, state: PodState, why: &str) -> PodReport {
    let pod = PodRef::new(PodUid::new("4d0b6cfa"), Some(PodName::new(namespace, name)));
    let settings = vec![
        setting("hold", "enabled", Origin::Namespace),
        setting("mode", "hold", Origin::Default),
    ];
    PodReport {
        why: why.to_owned(),
        settings: Some(settings),
        proxy: Some(ProxyReport {
            profile: "istio".to_owned(),
            container: "istio-proxy".to_owned(),
            clues: Vec::new(),
            ready: Vec::new(),
            kube_ready: true,
            kubelet: crate::core::KubeletWord::Counts,
            ports: vec![15001],
            dns_port: None,
            guessed: false,
            exclusion_hint: None,
        }),
        ..PodReport::new(pod, state, at(0))
    }
}

fn waiting() -> ConnectReport {
    ConnectReport {
        cookie: SocketCookie(1),
        container: Some("app".to_owned()),
        comm: "curl".to_owned(),
        pid: Some(4711),
        destination: ([10, 96, 0, 10], 8080).into(),
        query: false,
        by_sentry: false,
        since: at(0),
    }
}

fn fits(text: &str) {
    for line in text.lines() {
        assert!(line.width() <= WIDTH, "{line}");
        assert_eq!(line, line.trim_end());
    }
}

#[test]
fn a_row_for_each_pod_and_a_word_about_the_others() {
    let not_ready = "istio-proxy is not ready: nobody listens on port 15001";
    let mut closed = pod("shop", "cart-7d9f4b5c6-x2x8k", PodState::Closed, not_ready);
    (closed.held, closed.waiting) = (1, vec![waiting()]);
    let mut of_osm = pod("shop", "api-0", PodState::Open, "envoy is ready");
    let osm = of_osm.proxy.as_mut().unwrap();
    (osm.container, osm.profile) = ("envoy".to_owned(), "osm".to_owned());
    let pods = [closed, pod("shop", "web-0", PodState::Open, "istio-proxy is ready"), of_osm];
    let expected = "\
NAMESPACE/NAME             STATE   PROXY        MODE  HELD  SINCE  FROM       WHY
shop/cart-7d9f4b5c6-x2x8k  closed  istio-proxy  hold  1     2m     namespace  istio-proxy is not
                                                                              ready: nobody listens
                                                                              on port 15001
shop/web-0                 open    istio-proxy  hold  0     2m     namespace  istio-proxy is ready
shop/api-0                 open    envoy (osm)  hold  0     2m     namespace  envoy is ready
17 other pods are left out; --all shows them, too.
";
    let text = table(&pods, 17, at(150), Style::PLAIN);
    fits(&text);
    assert_eq!(text, expected);
}

#[test]
fn no_pods_is_an_answer_as_well() {
    let text = |left_out| table(&[], left_out, at(0), Style::PLAIN);
    assert_eq!(text(0), "There are no pods.\n");
    let one = "No pod here is held or to be held. 1 other pod is left out; --all shows it, too.\n";
    assert_eq!(text(1), one);
}

#[test]
fn an_order_comes_before_the_settings() {
    let mut pod = pod("shop", "cart", PodState::Closed, "closed by the operator");
    pod.order = Some(OrderReport::Closed { until: at(60) });
    assert!(table(&[pod], 0, at(0), Style::PLAIN).contains("order: close"));
}

#[test]
fn a_thousand_pods_of_long_and_hostile_names_fit() {
    let name = format!("{}\x1b[2J日本\u{202e}{}", "x".repeat(120), "y".repeat(120));
    let pods: Vec<PodReport> = (0..1000)
        .map(|n| {
            let mut pod = pod(&name, &format!("{n}{name}"), PodState::ALL[n % 10], &name);
            if let Some(proxy) = &mut pod.proxy {
                proxy.profile.clone_from(&name);
                proxy.container = format!("{name}{n}");
            }
            if let Some(mode) = pod.settings.iter_mut().flatten().find(|own| own.key == "mode") {
                mode.value.clone_from(&name);
            }
            (pod.held, pod.why) = (10_000 + n, name.repeat(3));
            pod
        })
        .collect();
    let text = table(&pods, 1_000_000, at(3_000_000), Style::PLAIN);
    fits(&text);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'));
    assert!((0..1000).all(|n| text.contains(&(10_000 + n).to_string())));
}

#[test]
fn names_are_cut_in_the_middle() {
    for (text, width, expected) in [
        ("shop/cart", 9, "shop/cart"),
        ("shop/cart-7d9f4b5c6-x2x8k", 15, "shop/ca…6-x2x8k"),
        ("日本日本日本", 7, "日…本"),
        ("a\nb", 3, "a…b"),
        ("", 5, ""),
    ] {
        let short = shortened(text, width);
        assert_eq!(short, expected);
        assert!(short.width() <= width, "{short}");
    }
}
