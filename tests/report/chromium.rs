//! A real Chromium opens the page: it has nothing to complain of, fetches nothing, nothing is cut off or written
//! over each other on a telephone or a desk, and it is drawn, light and dark. `make lab-tests` names the program
//! (`lab/chromium.sh`); without one this counts as skipped, unless `LAB_REQUIRED` is set.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::ZlibDecoder;
use serde_json::Value;

use super::{Folder, page_of, recording};

/// It has been seen to take seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Opens the page in frames of two widths and writes down what there is to see.
const LOOK: &str = r"<!DOCTYPE html><body><script>
const look = width => new Promise(done => {
  const frame = document.createElement('iframe');
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.onload = () => {
    const page = frame.contentDocument;
    const count = what => page.querySelectorAll(what).length;
    const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
    const overlaps = [], outside = [];
    for (const svg of page.querySelectorAll('svg')) {
      const all = svg.getBoundingClientRect();
      const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
      texts.forEach(([name, place], index) => {
        if (place.left < all.left || place.right > all.right || place.top < all.top || place.bottom > all.bottom) outside.push(name);
        for (const [other, its] of texts.slice(index + 1)) if (!apart(place, its)) overlaps.push(name + ' / ' + other);
      });
    }
    done({
      width: page.documentElement.scrollWidth, svgs: count('svg'), headings: count('h1,h2,h3'),
      bands: count('.band'), marks: count('.mark'), tables: count('table'), overlaps, outside,
      fetched: frame.contentWindow.performance.getEntriesByType('resource').map(entry => entry.name),
    });
  };
  frame.src = location.hash.slice(1);
  document.body.append(frame);
});
(async () => {
  const seen = [await look(400), await look(1280)];
  document.body.innerHTML = '<pre></pre>';
  document.querySelector('pre').textContent = JSON.stringify(seen);
})();
</script></body>";

struct Chromium {
    program: String,
    folder: Folder,
}

impl Chromium {
    fn find(name: &str) -> Option<Self> {
        let program = std::env::var("CHROMIUM").unwrap_or_default();
        if program.is_empty() {
            let what = "CHROMIUM names no program: lab/chromium.sh finds one";
            assert!(std::env::var_os("LAB_REQUIRED").is_none(), "{what}");
            eprintln!("SKIPPED: {what}");
            return None;
        }
        let folder = Folder::new(name);
        Some(Self { program, folder })
    }

    fn run(&self, arguments: &[&str], address: &str) -> Output {
        let profile = self.folder.0.join("profile");
        let (out, log) = (self.folder.0.join("out"), self.folder.0.join("log"));
        let file = |path| Stdio::from(fs::File::create(path).unwrap());
        let mut command = Command::new(&self.program);
        command
            .args(["--headless=new", "--no-sandbox", "--disable-gpu"])
            .args([
                "--no-first-run",
                "--disable-background-networking",
                "--disable-dev-shm-usage",
            ])
            // Nothing has a name.
            .arg("--host-resolver-rules=MAP * ~NOTFOUND")
            .args(["--allow-file-access-from-files", "--hide-scrollbars"])
            .args(["--enable-logging=stderr", "--virtual-time-budget=10000"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .args(arguments)
            .arg(address)
            .stdin(Stdio::null())
            .stdout(file(&out))
            .stderr(file(&log));
        let mut child = command.spawn().unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                panic!("it does not end: {}", fs::read_to_string(log).unwrap());
            }
            thread::sleep(Duration::from_millis(50));
        };
        let output = Output {
            status,
            stdout: fs::read(out).unwrap(),
            stderr: fs::read(log).unwrap(),
        };
        assert!(output.status.success(), "{output:?}");
        output
    }

    /// What there is of a page in both widths, and what its console said.
    fn look(&self, page: &Path) -> ([Value; 2], Vec<String>) {
        let look = self.folder.file("look.html", LOOK);
        let address = format!("file://{}#file://{}", look.display(), page.display());
        let output = self.run(&["--window-size=1400,1000", "--dump-dom"], &address);
        let dom = String::from_utf8(output.stdout).unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let seen = dom
            .split_once("<pre>")
            .and_then(|(_, rest)| rest.split_once("</pre>"));
        let (seen, _) = seen.unwrap_or_else(|| panic!("{dom}\n{log}"));
        let seen = seen
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&");
        let console = log.lines().filter(|line| line.contains("CONSOLE"));
        let console = console.map(str::to_owned).collect();
        (serde_json::from_str(&seen).unwrap(), console)
    }

    /// A picture of a page.
    fn picture(&self, page: &Path, scheme: &str) -> Picture {
        let file = self.folder.0.join("page.png");
        let screenshot = format!("--screenshot={}", file.display());
        // 0 is dark, 1 light: `mojom::PreferredColorScheme` of Chromium.
        let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
        let arguments = ["--window-size=1280,2400", &screenshot, &scheme];
        self.run(&arguments, &format!("file://{}", page.display()));
        Picture::read(&fs::read(&file).unwrap())
    }
}

/// The pixels of a PNG, by the specification: RFC 2083.
struct Picture {
    /// Red, green and blue, row by row.
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    fn read(png: &[u8]) -> Self {
        let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
        let (width, height, depth, kind) = (number(16), number(20), png[24], png[25]);
        let samples = match kind {
            2 => 3,
            6 => 4,
            other => panic!("colour type {other}"),
        };
        assert_eq!(depth, 8);
        let (mut at, mut packed) = (8, Vec::new());
        while at < png.len() {
            let length = number(at);
            if &png[at + 4..at + 8] == b"IDAT" {
                packed.extend_from_slice(&png[at + 8..at + 8 + length]);
            }
            at += length + 12;
        }
        let mut bytes = Vec::new();
        ZlibDecoder::new(&packed[..])
            .read_to_end(&mut bytes)
            .unwrap();
        let line = width * samples;
        let mut before = vec![0u8; line];
        let mut pixels = Vec::with_capacity(width * height);
        for row in bytes.chunks_exact(line + 1) {
            let mut now = row[1..].to_vec();
            for index in 0..line {
                let left = index.checked_sub(samples).map_or(0, |left| now[left]);
                let corner = index.checked_sub(samples).map_or(0, |left| before[left]);
                let up = before[index];
                let predicted = match row[0] {
                    0 => 0,
                    1 => left,
                    2 => up,
                    3 => u8::midpoint(left, up),
                    4 => paeth(left, up, corner),
                    other => panic!("filter {other}"),
                };
                now[index] = now[index].wrapping_add(predicted);
            }
            pixels.extend(now.chunks_exact(samples).map(|p| [p[0], p[1], p[2]]));
            before = now;
        }
        assert_eq!(pixels.len(), width * height);
        Self { pixels }
    }

    /// The colours, with how many pixels each has.
    fn colours(&self) -> HashMap<[u8; 3], usize> {
        let mut colours = HashMap::new();
        for pixel in &self.pixels {
            *colours.entry(*pixel).or_default() += 1;
        }
        colours
    }
}

fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let guess = i16::from(left) + i16::from(up) - i16::from(corner);
    let [to_left, to_up, to_corner] = [left, up, corner].map(|of| (guess - i16::from(of)).abs());
    if to_left <= to_up && to_left <= to_corner {
        left
    } else if to_up <= to_corner {
        up
    } else {
        corner
    }
}

#[test]
#[ignore = "needs Chromium: make lab-tests"]
fn it_shows_the_page_whole() {
    let Some(chromium) = Chromium::find("chromium") else {
        return;
    };
    let page = page_of(&chromium.folder.file("run.jsonl", &recording()));
    let (seen, console) = chromium.look(&page);
    assert_eq!(console, [""; 0]);
    for (seen, width) in seen.iter().zip([400, 1280]) {
        assert_eq!(seen["width"], width, "{seen}");
        // All links over time, of ports what they sent, received, and what went wrong, throughput of three links,
        // delay of the two that send.
        assert_eq!(seen["svgs"], 1 + 3 + 3 + 2, "{seen}");
        // The page, Verdicts, Processes, Links, Peers with two, Links over time, Messages, Ports with three, three
        // links with five charts, Events.
        assert_eq!(
            seen["headings"],
            1 + 4 + 2 + 1 + 1 + (1 + 3) + 3 + 5 + 1,
            "{seen}"
        );
        assert_eq!(seen["bands"], 5, "{seen}");
        // Of the first link, in both charts: suspect and fenced, up, failed.
        assert_eq!(seen["marks"], 2 * 3, "{seen}");
        assert_eq!(seen["tables"], 10, "{seen}");
        for nothing in ["overlaps", "outside", "fetched"] {
            assert_eq!(seen[nothing], Value::Array(Vec::new()), "{nothing}: {seen}");
        }
    }
}

#[test]
#[ignore = "needs Chromium: make lab-tests"]
fn it_draws_the_page_light_and_dark() {
    let Some(chromium) = Chromium::find("pictures") else {
        return;
    };
    let page = page_of(&chromium.folder.file("run.jsonl", &recording()));
    // Under white is the page of the light scheme, under this blue that of the dark one.
    for (scheme, back) in [("1", [0xff, 0xff, 0xff]), ("0", [0x12, 0x18, 0x1f])] {
        let picture = chromium.picture(&page, scheme);
        assert_eq!(picture.pixels[0], back);
        let colours = picture.colours();
        let blank = colours[&back];
        assert!(blank < picture.pixels.len() * 19 / 20, "{blank} are blank");
        assert!(colours.len() > 100, "{} colours", colours.len());
    }
}

/// What cannot fail proves nothing.
#[test]
#[ignore = "needs Chromium: make lab-tests"]
fn it_finds_what_is_wrong_with_a_page() {
    let Some(chromium) = Chromium::find("wrong") else {
        return;
    };
    let page = chromium.folder.file(
        "wrong.html",
        "<!DOCTYPE html><body><script>console.error('wrong')</script><img src='http://a.invalid/b.png'>\
         <div style='width:2000px'>wide</div><svg viewBox='0 0 100 20' style='width:100px'><text x='0' y='12'>one</text>\
         <text x='2' y='12'>two</text><text x='90' y='12'>outside</text></svg></body>",
    );
    let (seen, console) = chromium.look(&page);
    assert!(
        console.iter().any(|line| line.contains("wrong")),
        "{console:?}"
    );
    for (seen, width) in seen.iter().zip([400, 1280]) {
        assert!(seen["width"].as_u64().unwrap() > width, "{seen}");
        assert_eq!(seen["overlaps"][0], "one / two");
        assert!(
            seen["outside"]
                .as_array()
                .unwrap()
                .contains(&"outside".into())
        );
        assert_eq!(seen["fetched"][0], "http://a.invalid/b.png");
    }
}
