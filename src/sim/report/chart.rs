//! Charts as SVG, to stand in a page: lines over two axes, and a heat map. Colours are classes of
//! the page's style, so that they follow its light or dark scheme.

use std::fmt::Write as _;

/// Width of every chart in user units; the page scales it.
const WIDTH: f64 = 900.0;
/// Around the plot: room for the tick labels, the axis titles and the last label on the right.
const LEFT: f64 = 78.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 46.0;
const PLOT_HEIGHT: f64 = 230.0;
/// Least distance of two tick labels on the axis across, and up.
const TICK_GAP_ACROSS: f64 = 90.0;
const TICK_GAP_UP: f64 = 40.0;

/// A line of a chart, or several points of it.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) name: String,
    /// Points in order.
    pub(super) points: Vec<(f64, f64)>,
    /// Whether a value holds until the next one, as a count does.
    pub(super) is_step: bool,
}

/// A chart of lines. Both axes begin at 0.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    /// What the chart shows, for those who do not see it.
    pub(super) title: String,
    /// What is across, with its unit.
    pub(super) across: String,
    /// What is up, with its unit.
    pub(super) up: String,
    pub(super) lines: Vec<Line>,
    /// A level to compare with, and its name.
    pub(super) level: Option<(f64, String)>,
    /// Where the axis across begins and ends.
    pub(super) across_range: (f64, f64),
    /// Where the axis up ends, if not where the highest point is.
    pub(super) up_max: Option<f64>,
}

/// A scale with round ticks.
#[derive(Debug, Clone)]
struct Scale {
    min: f64,
    max: f64,
    from: f64,
    to: f64,
    step: f64,
    decimals: usize,
}

impl Scale {
    /// From `min` to at least `max`, drawn between `from` and `to`.
    fn new((min, max): (f64, f64), (from, to): (f64, f64), gap: f64, is_exact: bool) -> Self {
        let max = if max > min { max } else { min + 1.0 };
        let ticks = ((to - from).abs() / gap).floor().max(1.0);
        let rough = (max - min) / ticks;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|&step| step >= rough * 0.999)
            .unwrap_or(10.0 * power);
        let top = if is_exact {
            max
        } else {
            (max / step * 0.9999).ceil() * step
        };
        let mut decimals = 0;
        while decimals < 6 && (step * 10f64.powi(decimals)).fract().abs() > 1e-6 {
            decimals += 1;
        }
        Self {
            min,
            max: top,
            from,
            to,
            step,
            decimals: usize::try_from(decimals).unwrap_or(0),
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share = ((value - self.min) / (self.max - self.min)).clamp(0.0, 1.0);
        self.from + share * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        let first = (self.min / self.step - 1e-6).ceil();
        let mut ticks = Vec::new();
        let mut index = 0.0;
        loop {
            let value = (first + index) * self.step;
            if value > self.max + self.step * 1e-6 {
                return ticks;
            }
            ticks.push((self.at(value), format!("{value:.*}", self.decimals)));
            index += 1.0;
        }
    }
}

/// Text that stands in markup.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn open(svg: &mut String, height: f64, title: &str) {
    let title = escaped(title);
    let _ = write!(
        svg,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\" xmlns=\"http://www.w3.org/2000/svg\">"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), class: &str, content: &str) {
    let content = escaped(content);
    let _ = write!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{content}</text>"
    );
}

fn rule(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
    let _ = write!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
    );
}

/// The axis across, with its title, below a plot that ends at `bottom`.
fn axis_across(svg: &mut String, scale: &Scale, bottom: f64, title: &str) {
    for (x, label) in scale.ticks() {
        rule(svg, (x, bottom), (x, bottom + 5.0), "axis");
        text(svg, (x, bottom + 18.0), "tick middle", &label);
    }
    rule(svg, (LEFT, bottom), (WIDTH - RIGHT, bottom), "axis");
    text(
        svg,
        (f64::midpoint(LEFT, WIDTH - RIGHT), bottom + 38.0),
        "name middle",
        title,
    );
}

impl Chart {
    /// The chart as SVG.
    pub(super) fn to_svg(&self) -> String {
        // The legend has a line of its own above the plot.
        let legend = if self.lines.len() > 1 || self.level.is_some() {
            22.0
        } else {
            0.0
        };
        let (top, bottom) = (TOP + legend, TOP + legend + PLOT_HEIGHT);
        let points = self.lines.iter().flat_map(|line| &line.points);
        let highest = points.map(|point| point.1).fold(0.0, f64::max);
        let highest = self
            .level
            .iter()
            .map(|level| level.0)
            .fold(highest, f64::max);
        let across = Scale::new(
            self.across_range,
            (LEFT, WIDTH - RIGHT),
            TICK_GAP_ACROSS,
            true,
        );
        let up = Scale::new(
            (0.0, self.up_max.unwrap_or(highest)),
            (bottom, top),
            TICK_GAP_UP,
            self.up_max.is_some(),
        );
        let mut svg = String::new();
        open(&mut svg, bottom + BOTTOM, &self.title);
        for (y, label) in up.ticks() {
            rule(&mut svg, (LEFT, y), (WIDTH - RIGHT, y), "grid");
            text(&mut svg, (LEFT - 8.0, y + 4.0), "tick end", &label);
        }
        axis_across(&mut svg, &across, bottom, &self.across);
        let middle = f64::midpoint(top, bottom);
        let _ = write!(
            svg,
            "<text transform=\"translate(18 {middle:.1}) rotate(-90)\" class=\"name middle\">{}</text>",
            escaped(&self.up)
        );
        if let Some((value, _)) = &self.level {
            let y = up.at(*value);
            rule(&mut svg, (LEFT, y), (WIDTH - RIGHT, y), "level");
        }
        for (index, line) in self.lines.iter().enumerate() {
            let mut path = String::new();
            let mut before: Option<f64> = None;
            for &(x, y) in &line.points {
                let (x, y) = (across.at(x), up.at(y));
                let _ = match before {
                    None => write!(path, "M{x:.1} {y:.1}"),
                    Some(_) if line.is_step => write!(path, "H{x:.1}V{y:.1}"),
                    Some(_) => write!(path, "L{x:.1} {y:.1}"),
                };
                before = Some(y);
            }
            let _ = write!(
                svg,
                "<path d=\"{path}\" class=\"line c{}\"><title>{}</title></path>",
                index % COLOURS,
                escaped(&line.name)
            );
        }
        self.legend(&mut svg);
        svg.push_str("</svg>");
        svg
    }

    fn legend(&self, svg: &mut String) {
        if self.lines.len() < 2 && self.level.is_none() {
            return;
        }
        let mut x = LEFT;
        let level = self
            .level
            .iter()
            .map(|(_, name)| ("level".to_owned(), name.as_str()));
        let lines = self.lines.iter().enumerate();
        let lines =
            lines.map(|(index, line)| (format!("line c{}", index % COLOURS), line.name.as_str()));
        for (class, name) in lines.chain(level) {
            // The width of a name is not known before it is drawn: a generous guess.
            let width = 34.0 + 7.2 * f64::from(u32::try_from(name.chars().count()).unwrap_or(40));
            if x + width > WIDTH - RIGHT {
                text(svg, (x, TOP + 10.0), "tick", "…");
                return;
            }
            rule(svg, (x, TOP + 6.0), (x + 18.0, TOP + 6.0), &class);
            text(svg, (x + 24.0, TOP + 10.0), "tick", name);
            x += width + 14.0;
        }
    }
}

/// Colours of lines, and steps of a heat map, that the page's style has.
pub(super) const COLOURS: usize = 6;
pub(super) const STEPS: u32 = 8;

/// A heat map: rows of shares from 0 to 1 over time.
#[derive(Debug, Clone)]
pub(super) struct HeatMap<'a> {
    pub(super) title: String,
    pub(super) across: String,
    pub(super) rows: Vec<(&'a str, Vec<f64>)>,
    /// Where the axis across ends.
    pub(super) across_max: f64,
    /// Width of a sample, in units of the axis across.
    pub(super) sample: f64,
}

impl HeatMap<'_> {
    /// The map as SVG, with a scale of its colours.
    pub(super) fn to_svg(&self) -> String {
        // Names of links are longer than numbers.
        const LEFT: f64 = 190.0;
        const SCALE_HEIGHT: f64 = 40.0;
        let count = f64::from(u32::try_from(self.rows.len()).unwrap_or(1).max(1));
        let row = (520.0 / count).clamp(3.0, 18.0);
        let top = TOP + SCALE_HEIGHT;
        let bottom = top + row * count;
        let across = Scale::new(
            (0.0, self.across_max),
            (LEFT, WIDTH - RIGHT),
            TICK_GAP_ACROSS,
            true,
        );
        let mut svg = String::new();
        open(&mut svg, bottom + BOTTOM, &self.title);
        self.scale(&mut svg, LEFT);
        let _ = write!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" class=\"u0\"/>",
            WIDTH - RIGHT - LEFT,
            bottom - top
        );
        // One path for each colour: runs of equal colour are one stroke.
        let mut paths = vec![String::new(); STEPS as usize + 1];
        let mut labelled = f64::NEG_INFINITY;
        for (index, (name, shares)) in (0u32..).zip(&self.rows) {
            let y = top + row * (f64::from(index) + 0.5);
            if y - labelled >= 13.0 {
                labelled = y;
                let short: String = name.chars().take(28).collect();
                text(&mut svg, (LEFT - 8.0, y + 3.5), "small end", &short);
            }
            let mut at = 0;
            while at < shares.len() {
                let step = step_of(shares[at]);
                let run = shares[at..]
                    .iter()
                    .take_while(|&&share| step_of(share) == step)
                    .count();
                let edge = |sample: usize| {
                    let sample = f64::from(u32::try_from(sample).unwrap_or(u32::MAX));
                    across.at(sample * self.sample)
                };
                if step > 0 {
                    let _ = write!(paths[step], "M{:.1} {y:.1}H{:.1}", edge(at), edge(at + run));
                }
                at += run;
            }
        }
        for (step, path) in paths
            .iter()
            .enumerate()
            .filter(|(_, path)| !path.is_empty())
        {
            // No gap between rows: a hair more than a row, so that none shows through.
            let _ = write!(
                svg,
                "<path d=\"{path}\" class=\"s{step}\" stroke-width=\"{:.2}\"/>",
                row - if row > 8.0 { 1.0 } else { 0.0 }
            );
        }
        for (x, label) in across.ticks() {
            rule(&mut svg, (x, bottom), (x, bottom + 5.0), "axis");
            text(&mut svg, (x, bottom + 18.0), "tick middle", &label);
        }
        rule(&mut svg, (LEFT, bottom), (WIDTH - RIGHT, bottom), "axis");
        text(
            &mut svg,
            (f64::midpoint(LEFT, WIDTH - RIGHT), bottom + 38.0),
            "name middle",
            &self.across,
        );
        svg.push_str("</svg>");
        svg
    }

    #[expect(clippy::unused_self, reason = "a part of it")]
    fn scale(&self, svg: &mut String, left: f64) {
        let width = 34.0;
        text(
            svg,
            (left, TOP + 4.0),
            "tick",
            "share of its time that a link was busy",
        );
        for step in 0..=STEPS {
            let x = left + width * f64::from(step);
            let _ = write!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width}\" height=\"9\" class=\"u{step}\"/>",
                TOP + 9.0
            );
        }
        let end = left + width * f64::from(STEPS + 1);
        text(svg, (end + 8.0, TOP + 17.0), "small", "0 to 100 %");
    }
}

/// The colour of a share: 0 for next to nothing.
fn step_of(share: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the number of steps"
    )]
    let step = (share.clamp(0.0, 1.0) * f64::from(STEPS)).ceil() as usize;
    if share < 0.005 { 0 } else { step }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(max: f64) -> Vec<String> {
        let scale = Scale::new((0.0, max), (0.0, 230.0), 40.0, false);
        scale.ticks().into_iter().map(|tick| tick.1).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(1.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(419.0), ["0", "100", "200", "300", "400", "500"]);
        assert_eq!(labels(0.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(48.9), ["0", "10", "20", "30", "40", "50"]);
    }

    #[test]
    fn a_map_merges_what_is_equal() {
        let map = HeatMap {
            title: "a <map>".to_owned(),
            across: "µs".to_owned(),
            rows: vec![("leaf 0 → spine 0", vec![0.0, 0.5, 0.5, 1.0])],
            across_max: 4.0,
            sample: 1.0,
        };
        let svg = map.to_svg();
        assert!(svg.contains("a &lt;map&gt;"));
        assert_eq!(svg.matches("<path").count(), 2, "{svg}");
        assert_eq!(
            (step_of(0.0), step_of(0.01), step_of(0.5), step_of(1.0)),
            (0, 1, 4, 8)
        );
    }
}
