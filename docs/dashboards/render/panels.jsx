// The page that picture.mjs takes pictures of: the dashboard's panels, drawn by
// Grafana's components. What it shows is in window.picture.
import "@fontsource/inter/latin-400.css";
import "@fontsource/inter/latin-500.css";
import "uplot/dist/uPlot.min.css";
import {
  applyFieldOverrides, createTheme, dateTime, EventBusSrv, FieldType, getFieldDisplayValues, Registry, ThemeContext,
  toDataFrame,
} from "@grafana/data";
import { BigValue, GlobalStyles, PanelChrome, PanelContextProvider, TimeSeries } from "@grafana/ui";
import { createRoot } from "react-dom/client";

const { title, panels, theme: mode, top, header, from, to, width } = window.picture;
const theme = createTheme({ colors: { mode } });
const range = { from: dateTime(from * 1000), to: dateTime(to * 1000) };
const timeZone = "utc";
const verbatim = (text) => text; // nothing is left to be replaced

/** A series' name, as Grafana's Prometheus data source makes it. */
function name({ target, labels }) {
  if (target.legendFormat && target.legendFormat !== "__auto") {
    return target.legendFormat.replace(/\{\{\s*(.+?)\s*\}\}/g, (_, label) => labels[label] ?? "");
  }
  return `{${Object.entries(labels).map(([k, v]) => `${k}="${v}"`).join(", ")}}`;
}

/** Prometheus writes NaN where it divided by nothing, which Grafana shows as a gap. */
const number = (text) => (text === "NaN" ? null : Number(text.replace("Inf", "Infinity")));

const frames = (queries) =>
  queries.flatMap(({ target, step, series }) =>
    series.map(({ labels, points }) =>
      toDataFrame({
        refId: target.refId,
        fields: [
          // The interval makes a gap of a step without a sample.
          { name: "Time", type: FieldType.time, config: { interval: step * 1000 }, values: points.map(([t]) => t * 1000) },
          {
            name: "Value", type: FieldType.number, labels, values: points.map(([, v]) => number(v)),
            config: { displayNameFromDS: name({ target, labels }) },
          },
        ],
      }),
    ),
  );

/** The options that a panel sets. Grafana's own registry, with all that exist, is not published. */
function registry({ defaults, overrides }) {
  const ids = Object.keys(defaults).filter((k) => k !== "custom");
  ids.push(...Object.keys(defaults.custom ?? {}).map((k) => `custom.${k}`));
  ids.push(...overrides.flatMap((o) => o.properties.map((p) => p.id)));
  return new Registry(() =>
    [...new Set(ids)].map((id) => ({
      id, name: id, path: id.replace(/^custom\./, ""), isCustom: id.startsWith("custom."),
      process: (value) => value, shouldApply: ({ type }) => type !== FieldType.time, settings: {},
    })),
  );
}

const withConfig = ({ fieldConfig, answer }) =>
  applyFieldOverrides({
    data: frames(answer.queries), fieldConfig, fieldConfigRegistry: registry(fieldConfig),
    replaceVariables: verbatim, theme, timeZone,
  });

const text = { height: "100%", display: "flex", alignItems: "center", justifyContent: "center", color: theme.colors.text.secondary };

function Stat({ panel, width, height }) {
  const { reduceOptions, ...options } = panel.options;
  const values = getFieldDisplayValues({
    data: withConfig(panel), fieldConfig: panel.fieldConfig, reduceOptions, replaceVariables: verbatim, theme, timeZone,
  });
  return (
    <div style={{ display: "flex" }}>
      {values.map(({ display }, i) => (
        <BigValue key={i} {...options} value={display} theme={theme} width={width / values.length} height={height} count={values.length} />
      ))}
    </div>
  );
}

function Series({ panel, width, height }) {
  const data = withConfig(panel);
  if (data.length === 0) return <div style={text}>{panel.fieldConfig.defaults.noValue ?? "No data"}</div>;
  return (
    <PanelContextProvider value={{ eventsScope: "global", eventBus: new EventBusSrv() }}>
      <TimeSeries frames={data} timeRange={range} timeZone={timeZone} width={width} height={height} legend={panel.options.legend} />
    </PanelContextProvider>
  );
}

const types = { stat: Stat, timeseries: Series };

function Content(props) {
  if (props.panel.answer.error) return <div style={{ ...text, color: theme.colors.error.text }}>{props.panel.answer.error}</div>;
  const Type = types[props.panel.type];
  return Type ? <Type {...props} /> : <div style={text}>panels of type {props.panel.type} are not drawn here</div>;
}

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const column = (width - 8) / 24;
  const place = { position: "absolute", left: 8 + x * column, top: header + (y - top) * 38 };
  if (panel.type === "row") return <h2 style={{ ...place, ...theme.typography.h6, lineHeight: "30px", margin: 0 }}>{panel.title}</h2>;
  return (
    <div style={place}>
      <PanelChrome
        title={panel.title} description={panel.description} width={Math.floor(w * column) - 8} height={h * 38 - 8}
        statusMessage={panel.answer.error}
      >
        {(width, height) => <Content panel={panel} width={width} height={height} />}
      </PanelChrome>
    </div>
  );
}

const at = (t) => dateTime(t * 1000).utc().format("YYYY-MM-DD HH:mm:ss");
// What is drawn on a canvas, or measured, does not wait for its font.
Promise.all([400, 500].map((weight) => document.fonts.load(`${weight} 12px Inter`))).then(() =>
  createRoot(document.getElementById("root")).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div style={{ position: "absolute", left: 8, right: 8, top: 12, display: "flex", justifyContent: "space-between" }}>
        <h1 style={{ ...theme.typography.h3, margin: 0 }}>{title}</h1>
        <span style={{ color: theme.colors.text.secondary }}>{at(from)} to {at(to)} UTC</span>
      </div>
      {panels.map((panel) => <Panel key={panel.id} panel={panel} />)}
    </ThemeContext.Provider>,
  ),
);
