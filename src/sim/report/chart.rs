//! Charts as SVG, to stand in a page: lines or bands over two axes, and a heat map. Colours are classes of
//! [`STYLE`], so that they follow the light or dark scheme of the reader's system.

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

/// Style of a page with charts.
pub const STYLE: &str = "
:root{--ink:#1d2733;--soft:#5c6b7a;--line:#d8dee5;--page:#fff;--c0:#1f6fb5;--c1:#c8580a;--c2:#23845a;--c3:#7d4fb3;--c4:#b8336a;--c5:#6b6256;--c6:#8a6d00;--c7:#a3adb7;
--u0:#f1f4f7;--u1:#d6e6f4;--u2:#b5d3ec;--u3:#8cbbe0;--u4:#619fd1;--u5:#3c82bf;--u6:#2267a6;--u7:#144d85;--u8:#0a3462}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa8b5;--line:#35414d;--page:#12181f;--c0:#5aa9e6;--c1:#f0904c;--c2:#58b88b;--c3:#b491e0;--c4:#e87fa9;--c5:#b3a999;--c6:#d3b548;--c7:#5d6974;
--u0:#1a222b;--u1:#17324a;--u2:#1a4468;--u3:#205a89;--u4:#2d74ab;--u5:#4590c8;--u6:#6badde;--u7:#9ccbee;--u8:#d5eafa}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .3rem}p{margin:.3rem 0 .8rem;color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.6rem 0}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}th:first-child,td:first-child{text-align:left;padding-left:0}th{font-weight:600;color:var(--soft)}
pre{white-space:pre-wrap;border-left:3px solid var(--c1);padding-left:.8rem}svg{width:100%;height:auto;display:block}
text{font:12px system-ui,sans-serif;fill:var(--soft)}text.small{font-size:11px}text.name{fill:var(--ink)}.middle{text-anchor:middle}.end{text-anchor:end}
.axis{stroke:var(--soft)}.grid{stroke:var(--line)}.level{stroke:var(--soft);stroke-dasharray:5 4}.line{fill:none;stroke-width:2;stroke-linejoin:round}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}.c6{stroke:var(--c6)}.c7{stroke:var(--c7)}
.f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}.f4{fill:var(--c4)}.f5{fill:var(--c5)}.f6{fill:var(--c6)}.f7{fill:var(--c7)}
.u0{fill:var(--u0)}.u1{fill:var(--u1)}.u2{fill:var(--u2)}.u3{fill:var(--u3)}.u4{fill:var(--u4)}.u5{fill:var(--u5)}.u6{fill:var(--u6)}.u7{fill:var(--u7)}.u8{fill:var(--u8)}
.s1{stroke:var(--u1)}.s2{stroke:var(--u2)}.s3{stroke:var(--u3)}.s4{stroke:var(--u4)}.s5{stroke:var(--u5)}.s6{stroke:var(--u6)}.s7{stroke:var(--u7)}.s8{stroke:var(--u8)}
.band{fill-opacity:.8}.thin{stroke-width:1}.dashed{stroke-width:1.2;stroke-dasharray:3 3}.thin.dashed{stroke-width:.7}.hint{fill:var(--ink);fill-opacity:0}.hint:hover{fill-opacity:.09}
.mark path{fill:none;stroke:currentColor}.mark .tip{fill:currentColor}.m0{color:var(--soft)}.m1{color:var(--c6)}.m2{color:var(--c1)}.m3{color:var(--c4)}
";

/// Several lines are drawn thin if one has more points.
const POINTS_WIDE_MAX: usize = 200;
/// Marks that are nearer to each other than this are drawn as one.
const MARK_GAP: f64 = 8.0;
/// So many of them say what they are.
const MARK_NAMES_MAX: usize = 8;
/// Of more marks than this, those of the lower two levels do not cross the plot: they would hide it.
const MARKS_ACROSS_MAX: usize = 30;

/// A line of a chart, or several points of it.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// What it is of.
    pub name: String,
    /// Which of the colours it has.
    pub colour: usize,
    /// Points in order. What is no number ends the line, and the next point begins it anew.
    pub points: Vec<(f64, f64)>,
    /// Whether a value holds until the next one, as a count does.
    pub is_step: bool,
    /// Drawn thin and dashed, and not named: it goes with another of its colour.
    pub is_dashed: bool,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Where, across.
    pub at: f64,
    /// How bad it is, from 0 to 3.
    pub level: usize,
    /// What it was.
    pub name: String,
}

/// What a part of the chart says when it is pointed at.
#[derive(Debug, Clone)]
pub struct Hint {
    /// Where it begins and ends, across.
    pub range: (f64, f64),
    /// What it says.
    pub text: String,
}

/// A chart of lines. Both axes begin at 0 if nothing else is said.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    /// What the chart shows, for those who do not see it.
    pub title: String,
    /// What is across, with its unit.
    pub across: String,
    /// What is up, with its unit.
    pub up: String,
    /// What is shown.
    pub lines: Vec<Line>,
    /// Whether lines are bands that stand on each other; they are steps then, with the same points across.
    pub is_stacked: bool,
    /// A level to compare with, and its name.
    pub level: Option<(f64, String)>,
    /// Where the axis across begins and ends.
    pub across_range: (f64, f64),
    /// Where the axis up ends, if not where the highest point is.
    pub up_max: Option<f64>,
    /// Makes the axis up logarithmic, and writes its ticks.
    pub up_logarithmic: Option<fn(f64) -> String>,
    /// In the order of their places.
    pub marks: Vec<Mark>,
    /// From left to right.
    pub hints: Vec<Hint>,
}

/// Round numbers of a decade, and the first of the next.
const LOG_STEPS: [f64; 4] = [1.0, 2.0, 5.0, 10.0];

/// A scale with round ticks.
#[derive(Debug, Clone)]
struct Scale {
    min: f64,
    max: f64,
    from: f64,
    to: f64,
    step: f64,
    decimals: usize,
    logarithmic: Option<fn(f64) -> String>,
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
            logarithmic: None,
        }
    }

    /// From a round number below `min`, or 1, to a round one above `max`.
    fn logarithmic(
        (min, max): (f64, f64),
        (from, to): (f64, f64),
        label: fn(f64) -> String,
    ) -> Self {
        let min = if min.is_finite() { min.max(1.0) } else { 1.0 };
        let round = |value: f64, is_up: bool| {
            let power = 10f64.powf(value.log10().floor());
            let mut steps = LOG_STEPS.map(|factor| factor * power).into_iter();
            if is_up {
                steps.find(|&step| step >= value * 0.999)
            } else {
                steps.rfind(|&step| step <= value * 1.001)
            }
            .unwrap_or(power)
        };
        let min = round(min, false);
        Self {
            min,
            max: round(max.max(min * 1.01), true),
            from,
            to,
            step: 0.0,
            decimals: 0,
            logarithmic: Some(label),
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share = if self.logarithmic.is_some() {
            (value.max(self.min) / self.min).ln() / (self.max / self.min).ln()
        } else {
            (value - self.min) / (self.max - self.min)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn log_ticks(&self, label: fn(f64) -> String) -> Vec<(f64, String)> {
        // Over many decades, only whole ones.
        let is_wide = self.max / self.min > 500.0;
        let steps = &LOG_STEPS[..if is_wide { 1 } else { 3 }];
        let mut power = 10f64.powf(self.min.log10().floor());
        let mut ticks = Vec::new();
        while power <= self.max * 1.001 {
            let values = steps.iter().map(|step| step * power);
            let shown =
                values.filter(|&value| value > self.min * 0.999 && value < self.max * 1.001);
            ticks.extend(shown.map(|value| (self.at(value), label(value))));
            power *= 10.0;
        }
        ticks
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        if let Some(label) = self.logarithmic {
            return self.log_ticks(label);
        }
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
#[must_use]
pub fn escaped(text: &str) -> String {
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
    #[must_use]
    pub fn to_svg(&self) -> String {
        // The legend has a line of its own above the plot.
        let legend = if self.lines.len() > 1 || self.level.is_some() {
            22.0
        } else {
            0.0
        };
        let (top, bottom) = (TOP + legend, TOP + legend + PLOT_HEIGHT);
        let across = Scale::new(
            self.across_range,
            (LEFT, WIDTH - RIGHT),
            TICK_GAP_ACROSS,
            true,
        );
        let up = self.up_scale((bottom, top));
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
        if self.is_stacked {
            self.bands(&mut svg, &across, &up);
        } else {
            // Several lines that go up and down would be a block of the last one's colour.
            let is_long = |line: &Line| line.points.len() > POINTS_WIDE_MAX;
            let is_thin = self.lines.len() > 1 && self.lines.iter().any(is_long);
            for line in &self.lines {
                line.draw(&mut svg, &across, &up, is_thin);
            }
        }
        for Hint { range, text } in &self.hints {
            let (from, to) = (across.at(range.0), across.at(range.1));
            let _ = write!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{PLOT_HEIGHT}\" class=\"hint\"><title>{}</title></rect>",
                to - from,
                escaped(text)
            );
        }
        self.draw_marks(&mut svg, &across, (top, bottom));
        self.legend(&mut svg);
        svg.push_str("</svg>");
        svg
    }

    fn up_scale(&self, place: (f64, f64)) -> Scale {
        let values = || {
            let points = self.lines.iter().flat_map(|line| &line.points);
            let level = self.level.iter().map(|level| level.0);
            points.map(|point| point.1).chain(level)
        };
        let highest = if self.is_stacked {
            let sum = |index: usize| {
                let points = self.lines.iter().filter_map(|line| line.points.get(index));
                points.map(|point| number(point.1)).sum::<f64>()
            };
            let count = self.lines.first().map_or(0, |line| line.points.len());
            (0..count).map(sum).fold(0.0, f64::max)
        } else {
            // Of two, `max` takes the one that is a number.
            values().fold(0.0, f64::max)
        };
        if let Some(label) = self.up_logarithmic {
            let lowest = values().fold(f64::INFINITY, f64::min);
            return Scale::logarithmic((lowest, highest), place, label);
        }
        let max = self.up_max.unwrap_or(highest);
        Scale::new((0.0, max), place, TICK_GAP_UP, self.up_max.is_some())
    }

    /// The lines as bands, the first at the bottom.
    fn bands(&self, svg: &mut String, across: &Scale, up: &Scale) {
        let count = self.lines.first().map_or(0, |line| line.points.len());
        let mut below = vec![0.0; count];
        for line in &self.lines {
            let above: Vec<f64> = below
                .iter()
                .zip(&line.points)
                .map(|(below, point)| below + number(point.1))
                .collect();
            let edge = |heights: &[f64]| -> Vec<_> {
                let points = line.points.iter().zip(heights);
                points
                    .map(|(point, &height)| (across.at(point.0), up.at(height)))
                    .collect()
            };
            let (top, bottom) = (edge(&above), edge(&below));
            if above.iter().zip(&below).any(|(above, below)| above > below) {
                let mut path = String::new();
                steps(&mut path, &top);
                if let Some(&(_, y)) = bottom.last() {
                    let _ = write!(path, "V{y:.1}");
                }
                // Back, each step at its own begin.
                for pair in bottom.windows(2).rev() {
                    if place(pair[0].1) != place(pair[1].1) {
                        let _ = write!(path, "H{:.1}V{:.1}", pair[1].0, pair[0].1);
                    }
                }
                if let Some(&(x, _)) = bottom.first() {
                    let _ = write!(path, "H{x:.1}Z");
                }
                let _ = write!(
                    svg,
                    "<path d=\"{path}\" class=\"band f{}\"><title>{}</title></path>",
                    line.colour % COLOURS,
                    escaped(&line.name)
                );
            }
            below = above;
        }
    }

    fn draw_marks(&self, svg: &mut String, across: &Scale, (top, bottom): (f64, f64)) {
        let mut groups = Vec::new();
        let mut rest = &self.marks[..];
        while let Some(first) = rest.first() {
            let end = across.at(first.at) + MARK_GAP;
            let near = rest.iter().take_while(|mark| across.at(mark.at) < end);
            let (group, after) = rest.split_at(near.count().max(1));
            groups.push((across.at(first.at), group));
            rest = after;
        }
        for &(x, group) in &groups {
            let level = group.iter().map(|mark| mark.level).max().unwrap_or(0);
            let names = group.iter().take(MARK_NAMES_MAX);
            let mut names: Vec<_> = names.map(|mark| mark.name.clone()).collect();
            if group.len() > names.len() {
                names.push(format!("and {} more", group.len() - names.len()));
            }
            let _ = write!(svg, "<g class=\"mark m{level}\">");
            if level > 1 || groups.len() <= MARKS_ACROSS_MAX {
                let _ = write!(svg, "<path d=\"M{x:.1} {top:.1}V{bottom:.1}\"/>");
            }
            let _ = write!(
                svg,
                "<path d=\"M{:.1} {:.1}h10l-5 8z\" class=\"tip\"/><title>{}</title></g>",
                x - 5.0,
                top - 4.0,
                escaped(&names.join("\n"))
            );
        }
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
        let named = self.lines.iter().filter(|line| !line.is_dashed);
        let lines = named.map(|line| {
            let class = format!("line c{}", line.colour % COLOURS);
            (class, line.name.as_str())
        });
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

impl Line {
    fn draw(&self, svg: &mut String, across: &Scale, up: &Scale, is_thin: bool) {
        let mut path = String::new();
        for run in self.points.split(|point| point.1.is_nan()) {
            let places: Vec<_> = run.iter().map(|&(x, y)| (across.at(x), up.at(y))).collect();
            if self.is_step {
                steps(&mut path, &places);
            } else {
                for (index, (x, y)) in places.into_iter().enumerate() {
                    let letter = if index == 0 { 'M' } else { 'L' };
                    let _ = write!(path, "{letter}{x:.1} {y:.1}");
                }
            }
        }
        let dashed = if self.is_dashed { " dashed" } else { "" };
        let thin = if is_thin { " thin" } else { "" };
        let _ = write!(
            svg,
            "<path d=\"{path}\" class=\"line c{}{dashed}{thin}\"><title>{}</title></path>",
            self.colour % COLOURS,
            escaped(&self.name)
        );
    }
}

/// A line through places of which each holds until the next; those at the same height are one.
fn steps(path: &mut String, places: &[(f64, f64)]) {
    let (Some(first), Some(last)) = (places.first(), places.last()) else {
        return;
    };
    let _ = write!(path, "M{:.1} {:.1}", first.0, first.1);
    let mut height = first.1;
    for &(x, y) in places {
        if place(y) != place(height) {
            let _ = write!(path, "H{x:.1}V{y:.1}");
            height = y;
        }
    }
    let _ = write!(path, "H{:.1}", last.0);
}

/// Nothing where there is no number.
fn number(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value }
}

/// A place as exactly as it is written, to compare with another.
#[expect(clippy::cast_possible_truncation, reason = "within a chart")]
fn place(at: f64) -> i64 {
    (at * 10.0).round() as i64
}

/// Names of a heat map's rows are cut off after so many characters.
const NAME_MAX: usize = 56;

/// Colours that [`STYLE`] has.
pub const COLOURS: usize = 8;
/// Steps of a heat map that it has, beside none.
const STEPS: u32 = 8;

/// A heat map: rows of shares from 0 to 1 over time.
#[derive(Debug, Clone)]
pub struct HeatMap<'a> {
    /// What the map shows, for those who do not see it.
    pub title: String,
    /// What is across, with its unit.
    pub across: String,
    /// What the colours say, and what they reach from and to.
    pub scale: (String, String),
    /// Each with its name; what is no number has no colour.
    pub rows: Vec<(&'a str, Vec<f64>)>,
    /// Where the axis across ends.
    pub across_max: f64,
    /// Width of a sample, in units of the axis across.
    pub sample: f64,
}

impl HeatMap<'_> {
    /// The map as SVG, with a scale of its colours.
    #[must_use]
    pub fn to_svg(&self) -> String {
        const SCALE_HEIGHT: f64 = 40.0;
        // Names of links are longer than numbers.
        let lengths = self.rows.iter().map(|row| row.0.chars().count());
        let longest = lengths.max().unwrap_or(0).clamp(28, NAME_MAX);
        let left = 22.0 + 6.0 * f64::from(u32::try_from(longest).unwrap_or(28));
        let count = f64::from(u32::try_from(self.rows.len()).unwrap_or(1).max(1));
        let row = (520.0 / count).clamp(3.0, 18.0);
        let top = TOP + SCALE_HEIGHT;
        let bottom = top + row * count;
        let across = Scale::new(
            (0.0, self.across_max),
            (left, WIDTH - RIGHT),
            TICK_GAP_ACROSS,
            true,
        );
        let mut svg = String::new();
        open(&mut svg, bottom + BOTTOM, &self.title);
        self.scale(&mut svg, left);
        let _ = write!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" class=\"u0\"/>",
            WIDTH - RIGHT - left,
            bottom - top
        );
        // One path for each colour: runs of equal colour are one stroke.
        let mut paths = vec![String::new(); STEPS as usize + 1];
        let mut labelled = f64::NEG_INFINITY;
        for (index, (name, shares)) in (0u32..).zip(&self.rows) {
            let y = top + row * (f64::from(index) + 0.5);
            if y - labelled >= 13.0 {
                labelled = y;
                let short: String = name.chars().take(NAME_MAX).collect();
                text(&mut svg, (left - 8.0, y + 3.5), "small end", &short);
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
        rule(&mut svg, (left, bottom), (WIDTH - RIGHT, bottom), "axis");
        text(
            &mut svg,
            (f64::midpoint(left, WIDTH - RIGHT), bottom + 38.0),
            "name middle",
            &self.across,
        );
        svg.push_str("</svg>");
        svg
    }

    fn scale(&self, svg: &mut String, left: f64) {
        let width = 34.0;
        text(svg, (left, TOP + 4.0), "tick", &self.scale.0);
        for step in 0..=STEPS {
            let x = left + width * f64::from(step);
            let _ = write!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width}\" height=\"9\" class=\"u{step}\"/>",
                TOP + 9.0
            );
        }
        let end = left + width * f64::from(STEPS + 1);
        text(svg, (end + 8.0, TOP + 17.0), "small", &self.scale.1);
    }
}

/// The colour of a share: 0 for next to nothing.
#[must_use]
pub fn step_of(share: f64) -> usize {
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
    fn ticks_of_a_logarithmic_scale_are_round() {
        let labels = |min, max| -> Vec<String> {
            let scale = Scale::logarithmic((min, max), (100.0, 0.0), |value| format!("{value}"));
            scale.ticks().into_iter().map(|tick| tick.1).collect()
        };
        assert_eq!(labels(3.0, 40.0), ["2", "5", "10", "20", "50"]);
        assert_eq!(labels(20.0, 21_000.0), ["100", "1000", "10000"]);
        assert_eq!(labels(7.0, 7.0), ["5", "10"]);
        // Of nothing, and of nothing but nothing.
        assert_eq!(labels(f64::INFINITY, 0.0), ["1", "2"]);
        assert_eq!(labels(0.0, 0.0), ["1", "2"]);
        let scale = Scale::logarithmic((10.0, 1000.0), (100.0, 0.0), |_| String::new());
        assert_eq!((scale.at(10.0), scale.at(0.0)), (100.0, 100.0));
        assert!((scale.at(100.0) - 50.0).abs() < 1e-9);
    }

    fn chart(heights: &[&[f64]]) -> Chart {
        let line = |(colour, heights): (usize, &&[f64])| Line {
            name: format!("<{colour}>"),
            colour,
            points: (0u32..)
                .map(f64::from)
                .zip(heights.iter().copied())
                .collect(),
            is_step: true,
            ..Line::default()
        };
        Chart {
            lines: heights.iter().enumerate().map(line).collect(),
            across_range: (0.0, 2.0),
            up_max: Some(4.0),
            ..Chart::default()
        }
    }

    #[test]
    fn bands_stand_on_each_other() {
        let chart = Chart {
            is_stacked: true,
            ..chart(&[&[1.0, 1.0, 1.0], &[0.0, 3.0, 3.0]])
        };
        let svg = chart.to_svg();
        // The plot is from 78 to 876 and from 266 up to 36.
        assert!(svg.contains("d=\"M78.0 208.5H876.0V266.0H78.0Z\" class=\"band f0\""));
        let upper = "d=\"M78.0 208.5H477.0V36.0H876.0V208.5H78.0Z\" class=\"band f1\"";
        assert!(svg.contains(upper), "{svg}");
    }

    #[test]
    fn a_line_ends_where_there_is_no_number() {
        let svg = chart(&[&[1.0, f64::NAN, 2.0]]).to_svg();
        assert!(svg.contains("M78.0 186.5H78.0M876.0 129.0H876.0"), "{svg}");
    }

    #[test]
    fn marks_that_are_near_each_other_are_one() {
        let mark = |at, level, name: &str| Mark {
            at,
            level,
            name: name.to_owned(),
        };
        let chart = Chart {
            marks: vec![
                mark(0.5, 1, "a"),
                mark(0.501, 3, "b <c>"),
                mark(1.0, 0, "d"),
            ],
            ..chart(&[])
        };
        let svg = chart.to_svg();
        assert!(svg.contains("<title>a\nb &lt;c&gt;</title>"), "{svg}");
        assert_eq!(svg.matches("class=\"mark m3\"").count(), 1);
        assert_eq!(svg.matches("class=\"mark m0\"").count(), 1);
    }

    #[test]
    fn a_map_merges_what_is_equal() {
        let map = HeatMap {
            title: "a <map>".to_owned(),
            across: "µs".to_owned(),
            scale: (String::new(), String::new()),
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
