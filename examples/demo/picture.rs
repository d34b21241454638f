//! The run as a picture: SVG, written by hand, since two panels of areas and lines need no library.

use std::fmt::Write;

use crate::record::Curve;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 30.0;
const PANEL_HEIGHT: f64 = 250.0;
const PANEL_GAP: f64 = 92.0;
const TOP: f64 = 90.0;

/// Colours that remain distinct for the colour-blind (Okabe and Ito), in the order of the curves.
const COLOURS: [&str; 8] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999",
];

/// One panel.
pub struct Panel {
    pub title: String,
    /// Name and curve of each layer, the lowest first; stacked.
    pub layers: Vec<(String, Curve)>,
    /// A line over the layers.
    pub line: Option<(String, Curve)>,
    /// What all together can carry, in Gb/s.
    pub capacity_gbit_s: f64,
}

/// Something that happened.
pub struct Mark {
    pub t_ms: f64,
    pub text: String,
    pub kind: MarkKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum MarkKind {
    Cut,
    Heal,
    Fence,
}

/// Draws the panels above one another over the same time.
pub fn draw(
    title: &str,
    subtitle: &str,
    panels: &[Panel],
    marks: &[Mark],
    from_ms: f64,
    to_ms: f64,
) -> String {
    #[allow(clippy::cast_precision_loss, reason = "few panels")]
    let height = TOP + (PANEL_HEIGHT + PANEL_GAP) * panels.len() as f64;
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#222\">\n\
         <title>{0}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"18\" font-weight=\"bold\">{0}</text>\n\
         <text x=\"{LEFT}\" y=\"48\" fill=\"#555\">{1}</text>\n",
        escape(title),
        escape(subtitle)
    );
    let mut top = TOP;
    for panel in panels {
        draw_panel(&mut svg, panel, marks, top, from_ms, to_ms);
        top += PANEL_HEIGHT + PANEL_GAP;
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_panel(svg: &mut String, panel: &Panel, marks: &[Mark], top: f64, from_ms: f64, to_ms: f64) {
    let right = WIDTH - RIGHT;
    let bottom = top + PANEL_HEIGHT;
    let span_ms = (to_ms - from_ms).max(1.0);
    let highest = panel.capacity_gbit_s * 1.12;
    let x = |t_ms: f64| LEFT + (t_ms - from_ms).clamp(0.0, span_ms) / span_ms * (right - LEFT);
    let y = |gbit_s: f64| bottom - gbit_s.clamp(0.0, highest) / highest * PANEL_HEIGHT;
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>",
        top - 10.0,
        escape(&panel.title)
    );
    draw_axes(svg, top, span_ms, highest);
    draw_layers(svg, panel, &x, &y, from_ms, to_ms);
    let capacity = y(panel.capacity_gbit_s);
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{capacity:.1}\" y2=\"{capacity:.1}\" stroke=\"#555\" stroke-dasharray=\"6 4\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">all ways together: {:.1} Gb/s</text>",
        right - 4.0,
        capacity - 5.0,
        panel.capacity_gbit_s
    );
    for mark in marks {
        let at = x(mark.t_ms);
        let colour = match mark.kind {
            MarkKind::Cut => "#c00000",
            MarkKind::Heal => "#007a33",
            MarkKind::Fence => "#333",
        };
        if mark.kind == MarkKind::Fence {
            let _ = writeln!(
                svg,
                "<path d=\"M{at:.1} {0:.1} l-5 9 h10 z\" fill=\"{colour}\"><title>{1}</title></path>",
                bottom + 1.0,
                escape(&mark.text)
            );
            continue;
        }
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" font-weight=\"bold\" stroke=\"#fff\" stroke-width=\"3\" paint-order=\"stroke\">{}</text>",
            at + 5.0,
            top + 14.0,
            escape(&mark.text)
        );
    }
    let has_fences = marks.iter().any(|m| m.kind == MarkKind::Fence);
    draw_legend(svg, panel, bottom + 52.0, has_fences);
}

fn draw_axes(svg: &mut String, top: f64, span_ms: f64, highest: f64) {
    let (right, bottom) = (WIDTH - RIGHT, top + PANEL_HEIGHT);
    let step_gbit_s = step(highest, 5.0);
    let mut value = 0.0;
    while value <= highest {
        let at = bottom - value / highest * PANEL_HEIGHT;
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.*}</text>",
            LEFT - 7.0,
            at + 4.0,
            if step_gbit_s < 0.1 { 2 } else { 1 }
        );
        value += step_gbit_s;
    }
    let step_s = step(span_ms / 1e3, 12.0).max(1.0);
    let mut second = 0.0;
    while second <= span_ms / 1e3 {
        let at = LEFT + second * 1e3 / span_ms * (right - LEFT);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom}\" y2=\"{:.1}\" stroke=\"#222\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{second:.0}</text>",
            bottom + 5.0,
            bottom + 20.0
        );
        second += step_s;
    }
    let middle = f64::midpoint(top, bottom);
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT} {top} V{bottom} H{right}\" fill=\"none\" stroke=\"#222\"/>\
         <text transform=\"translate(22 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">throughput (Gb/s)</text>\
         <text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">time (s)</text>",
        bottom + 36.0
    );
}

/// Stacks the layers on a common grid of times, then draws the line.
fn draw_layers(
    svg: &mut String,
    panel: &Panel,
    x: &dyn Fn(f64) -> f64,
    y: &dyn Fn(f64) -> f64,
    from_ms: f64,
    to_ms: f64,
) {
    const GRID_MS: f64 = 100.0;
    let mut times = Vec::new();
    let mut t = from_ms;
    while t <= to_ms {
        times.push(t);
        t += GRID_MS;
    }
    let mut floor = vec![0.0; times.len()];
    for (i, (name, curve)) in panel.layers.iter().enumerate() {
        let roof: Vec<f64> = times
            .iter()
            .zip(&floor)
            .map(|(&t, low)| low + value_at(curve, t))
            .collect();
        let mut points = String::new();
        for (&t, &v) in times.iter().zip(&roof) {
            let _ = write!(points, "{:.1},{:.1} ", x(t), y(v));
        }
        for (&t, &v) in times.iter().zip(&floor).rev() {
            let _ = write!(points, "{:.1},{:.1} ", x(t), y(v));
        }
        let _ = writeln!(
            svg,
            "<polygon points=\"{}\" fill=\"{}\" fill-opacity=\"0.8\"><title>{}</title></polygon>",
            points.trim_end(),
            COLOURS[i % COLOURS.len()],
            escape(name)
        );
        floor = roof;
    }
    if let Some((_, curve)) = &panel.line {
        let points: Vec<String> = curve
            .iter()
            .filter(|(t, _)| (from_ms..=to_ms).contains(t))
            .map(|&(t, v)| format!("{:.1},{:.1}", x(t), y(v)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#000\" stroke-width=\"1.6\"/>",
            points.join(" ")
        );
    }
}

/// What a curve says of a time: the first value at or after it, for a value speaks of the time before.
fn value_at(curve: &Curve, t_ms: f64) -> f64 {
    /// A counter that is silent for longer is gone, not merely late.
    const STALE_MS: f64 = 400.0;
    let at = curve.partition_point(|&(t, _)| t < t_ms);
    match curve.get(at) {
        Some(&(t, value)) if t - t_ms <= STALE_MS => value,
        _ => 0.0,
    }
}

fn draw_legend(svg: &mut String, panel: &Panel, at: f64, has_fences: bool) {
    /// About the width of a letter of 13 pixels.
    const LETTER: f64 = 6.9;
    let mut left = LEFT;
    let mut entry = |sign: String, name: &str| {
        #[allow(clippy::cast_precision_loss, reason = "a short name")]
        let width = 26.0 + name.chars().count() as f64 * LETTER + 12.0;
        let _ = writeln!(
            svg,
            "<g transform=\"translate({left:.1} {at:.1})\">{sign}<text x=\"22\" y=\"4\">{}</text></g>",
            escape(name)
        );
        left += width;
    };
    for (i, (name, _)) in panel.layers.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        entry(
            format!(
                "<rect x=\"2\" y=\"-7\" width=\"14\" height=\"14\" fill=\"{colour}\" fill-opacity=\"0.8\"/>"
            ),
            name,
        );
    }
    if let Some((name, _)) = &panel.line {
        entry(
            "<path d=\"M0 0 h18\" stroke=\"#000\" stroke-width=\"1.6\"/>".to_owned(),
            name,
        );
    }
    if has_fences {
        entry(
            "<path d=\"M9 -5 l-5 9 h10 z\" fill=\"#333\"/>".to_owned(),
            "path fenced",
        );
    }
}

/// A round step that cuts `span` into at most `parts`.
fn step(span: f64, parts: f64) -> f64 {
    let raw = (span / parts).max(1e-9);
    let power = 10_f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|f| f * power >= raw)
        .unwrap_or(10.0);
    factor * power
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (span, parts, want) in [(2.24, 5.0, 0.5), (21.0, 12.0, 2.0), (60.0, 12.0, 5.0)] {
            assert!((step(span, parts) - want).abs() < 1e-9, "{span}");
        }
    }

    #[test]
    fn names_cannot_break_the_picture() {
        let panel = Panel {
            title: "a<b".to_owned(),
            layers: vec![("x&y".to_owned(), vec![(0.0, 1.0)])],
            line: None,
            capacity_gbit_s: 2.0,
        };
        let svg = draw("t\"", "", &[panel], &[], 0.0, 100.0);
        assert!(svg.contains("a&lt;b") && svg.contains("x&amp;y") && svg.contains("t&quot;"));
    }
}
