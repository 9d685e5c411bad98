//! The documents: the tables that the code itself can tell are made from it, and no link leads
//! nowhere.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod capabilities;
mod files;
mod helm;
mod links;
mod messages;
mod metrics;
mod monitoring;
mod reliability;
mod tables;

#[test]
fn the_tables_of_settings_and_options_are_those_of_the_agent() {
    tables::check();
}

#[test]
fn the_table_of_faults_is_that_of_the_suite() {
    reliability::check();
}

#[test]
fn every_relative_link_leads_somewhere() {
    let broken = links::broken();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn whoever_upgrades_gets_the_new_charts_defaults() {
    let wrong = helm::old_values();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_the_agent_says_is_quoted_as_it_says_it() {
    let unknown = messages::unknown();
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

#[test]
fn the_capabilities_that_are_explained_are_those_that_are_given() {
    let given = capabilities::given();
    assert!(!given.is_empty());
    assert_eq!(capabilities::explained(), given);
}
