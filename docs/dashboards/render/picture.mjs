// Makes the pictures of the dashboard that docs/metrics.md shows, from the dashboard's
// JSON as it is and from what a Prometheus answers to its queries.
//
// It is not Grafana: that is a server, under a licence (AGPL) that we do not want
// among our tools. But the components that Grafana draws its panels with, and its code for
// units, thresholds and colours, are published under Apache-2.0. panels.jsx puts them
// together; this program asks the queries and takes the pictures.
//
//     npm install
//     npm run picture -- --from 1795865700 --to 1795866180
//
// run.sh is a run to be looked at. A query that fails is shown in its panel, and ends
// this with status 1.
import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs, promisify } from "node:util";
import * as esbuild from "esbuild";

const here = import.meta.dirname;
const { values: options } = parseArgs({
  options: {
    prometheus: { type: "string", default: "http://127.0.0.1:9490" },
    from: { type: "string" }, // seconds since 1970
    to: { type: "string" },
    scrape: { type: "string", default: "5" }, // Prometheus's scrape_interval, in seconds
    width: { type: "string", default: "1200" }, // of the pictures
    theme: { type: "string", default: "light" }, // or dark
    dashboard: { type: "string", default: join(here, "..", "outbox-relay.json") },
    out: { type: "string", default: join(here, "..", "..", "images") },
    chromium: { type: "string", default: "chromium" },
  },
});
const [from, to, scrape, width] = ["from", "to", "scrape", "width"].map((name) => Number(options[name]));
if (!(from < to && scrape > 0 && width > 0)) {
  console.error("picture: --from and --to are needed, in seconds since 1970");
  process.exit(2);
}
const dashboard = JSON.parse(readFileSync(options.dashboard, "utf8"));

// Each picture has rows of the dashboard, with the panels below them.
const rows = dashboard.panels.filter((p) => p.type === "row").map((p) => p.gridPos.y);
const pictures = { "dashboard-flow": [0, rows[3]], "dashboard-faults": [rows[3], Infinity] };

// Grafana's grid: 24 columns, 30 px a line, 8 px between them.
const inside = ({ gridPos: { y } }, [top, bottom]) => y >= top && y < bottom;
const height = (range) =>
  Math.max(...dashboard.panels.filter((p) => inside(p, range)).map((p) => p.gridPos.y + p.gridPos.h - range[0])) * 38 + 8;
const title = 64; // px, above the panels

/** Grafana takes a step for each pixel, and no shorter than the scrape interval. */
const step = ({ gridPos }) => Math.max(scrape, Math.ceil((to - from) / ((width * gridPos.w) / 24)));

/** What Grafana puts in for its variables: all topics, the step, and for rates four scrapes at least. */
function interpolate(expr, panel) {
  const topic = dashboard.templating.list.find((v) => v.name === "topic");
  return expr
    .replaceAll("$__rate_interval", `${Math.max(step(panel) + scrape, 4 * scrape)}s`)
    .replaceAll("$__interval", `${step(panel)}s`)
    .replaceAll("$topic", topic.allValue);
}

async function ask(target, panel) {
  const expr = interpolate(target.expr, panel);
  const unknown = expr.match(/\$[a-z_]\w*|\$\{\w+\}|\[\[\w+\]\]/i);
  if (unknown) throw new Error(`variable ${unknown[0]} is not known here`);
  // Like Grafana's, the steps are at multiples of their length.
  const every = step(panel);
  const aligned = { start: Math.floor(from / every) * every, end: Math.floor(to / every) * every, step: every };
  const [path, when] = target.instant ? ["query", { time: to }] : ["query_range", aligned];
  const answer = await fetch(`${options.prometheus}/api/v1/${path}?${new URLSearchParams({ query: expr, ...when })}`).catch((err) => {
    throw new Error(`${options.prometheus} does not answer: ${err.cause?.message ?? err.message}`);
  });
  const body = await answer.json();
  if (body.status !== "success") throw new Error(body.error ?? `Prometheus answered ${answer.status}`);
  const series = body.data.result.map((r) => ({ labels: r.metric, points: r.values ?? [r.value] }));
  return { target, step: every, series };
}

let failed = false;
const answers = {};
for (const panel of dashboard.panels.filter((p) => p.targets)) {
  try {
    answers[panel.id] = { queries: await Promise.all(panel.targets.map((t) => ask(t, panel))) };
  } catch (err) {
    failed = true;
    answers[panel.id] = { error: err.message };
    console.error(`picture: panel "${panel.title}": ${err.message}`);
  }
}

await esbuild.build({
  entryPoints: [join(here, "panels.jsx")],
  bundle: true,
  minify: true,
  outdir: join(here, "dist"),
  jsx: "automatic",
  define: { "process.env.NODE_ENV": '"production"', global: "window" },
  loader: { ".woff": "dataurl", ".woff2": "dataurl", ".ttf": "empty" },
  logLevel: "error",
});

// The icons are fetched one by one, so the page needs a server.
const page = (range) => `<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="/panels.css"><div id="root"></div>
<script>window.__grafana_public_path__ = "/"; window.picture = ${JSON.stringify({
  title: dashboard.title,
  panels: dashboard.panels.filter((p) => inside(p, range)).map((p) => ({ ...p, answer: answers[p.id] })),
  theme: options.theme, top: range[0], header: title, from, to, width,
}).replaceAll("<", "\\u003c")}</script><script src="/panels.js"></script>`;
const server = http.createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://localhost");
  if (pathname.slice(1) in pictures) {
    response.setHeader("content-type", "text/html");
    return response.end(page(pictures[pathname.slice(1)]));
  }
  const file = [join(here, "dist", pathname), join(here, "node_modules/@grafana/ui/dist/public", pathname)].find(existsSync);
  const types = { css: "text/css", js: "text/javascript", svg: "image/svg+xml" };
  response.writeHead(file ? 200 : 404, { "content-type": types[pathname.split(".").pop()] ?? "text/plain" });
  response.end(file && readFileSync(file));
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));

const profile = mkdtempSync(join(tmpdir(), "picture-"));
try {
  for (const [name, range] of Object.entries(pictures)) {
    const png = join(options.out, `${name}.png`);
    await promisify(execFile)(options.chromium, [
      "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--hide-scrollbars", `--user-data-dir=${profile}`,
      `--window-size=${width},${title + height(range)}`, "--virtual-time-budget=10000", `--screenshot=${png}`,
      `http://127.0.0.1:${server.address().port}/${name}`,
    ], { timeout: 120_000 });
    console.log(png);
  }
} finally {
  server.close();
  rmSync(profile, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
