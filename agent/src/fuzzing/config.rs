//! The config file, and pods judged by it.

use super::settings::{assert_settings, plain_pod};
use crate::{
    config,
    core::{Choices, Defaults, NamespaceView, Rules, hold_timeout},
};

pub(super) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let config = match config::parse(&text) {
        Ok(config) => config,
        Err(fault) => return super::assert_one_line(&fault.to_string()),
    };
    let Choices { timeout, .. } = config.choices;
    if let Some(timeout) = timeout {
        let text = humantime::format_duration(timeout).to_string();
        assert_eq!(hold_timeout(&text), Ok(timeout));
    }
    let defaults = Defaults::default()
        .with(config.choices)
        .with(Choices { hold: Some(true), ..Choices::default() });
    let rules = Rules { defaults, profiles: config.profiles, own_pod: None };
    let namespace =
        NamespaceView { name: "shop".to_owned(), labels: [].into(), annotations: [].into() };
    for container in ["istio-proxy", "gatekeeper", "proxy"] {
        let pod = plain_pod(container);
        let judgement = rules.judge(&pod, Some(&namespace)).expect("the namespace is known");
        assert_settings(&judgement.settings.expect("the namespace is known"));
        if let Ok(plan) = judgement.plan {
            super::pod::assert_checks(&plan.proxy.ready);
        }
    }
    super::pod::assert_checks(&rules.unknown().proxy.ready);
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let document = include_str!("../../../docs/configuration.md");
    let examples = document
        .split("```yaml\n# holdfast.yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```"))
        .map(|(example, _)| example);
    let own = "hold: enabled\nmode: retry\nerrno: EAGAIN\ntimeout: 90s\non-timeout: refuse\n\
               guard: enabled\nmesh-wishes: disabled\nobserve: enabled\nprofiles:\n\
               - {name: gatekeeper, containers: [gatekeeper], ready: ['tcp://:6000'], ports: [6000]}\n";
    let builtin = include_str!("../core/profile/builtin.yaml");
    let builtin = format!("profiles:\n{builtin}");
    examples.chain([own, &builtin, "{}"]).map(|text| text.as_bytes().to_vec()).collect()
}
