//! Reports as a page.
use super::Report;
use crate::sim::scenario::Scenario;
impl Report {
    /// The page.
    #[must_use]
    pub fn to_html(&self, _scenario: &Scenario) -> String {
        String::new()
    }
}
