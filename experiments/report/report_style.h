/* The style sheet of the report; internal to report.c. Colours are variables, so that dark mode is
 * a second set of values. */
#ifndef NIBBLE_EXPERIMENTS_REPORT_REPORT_STYLE_H
#define NIBBLE_EXPERIMENTS_REPORT_REPORT_STYLE_H

static const char report_style[] =
    ":root{color-scheme:light dark;--page:#f9f9f7;--card:#fcfcfb;--ink:#0b0b0b;--soft:#52514e;"
    "--muted:#6f6d68;--grid:#e1e0d9;--axis:#c3c2b7;--s0:#2a78d6;--s1:#eb6834;--on:#ffffff}\n"
    "@media(prefers-color-scheme:dark){:root{--page:#0d0d0d;--card:#1a1a19;--ink:#ffffff;"
    "--soft:#c3c2b7;--muted:#9a988f;--grid:#2c2c2a;--axis:#4a4a46;--s0:#3987e5;--s1:#d95926}}\n"
    "body{margin:0 auto;padding:24px 16px 64px;max-width:1160px;background:var(--page);"
    "color:var(--ink);font:15px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:26px;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:18px;margin:36px 0 "
    "12px}\n"
    ".note{color:var(--soft);margin:4px 0}\n"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;"
    "margin:20px 0}\n"
    ".tiles div{background:var(--card);border:1px solid var(--grid);border-radius:8px;"
    "padding:12px 14px}\n"
    ".tiles dt{color:var(--soft);font-size:13px}.tiles "
    "dd{margin:0;font-size:24px;font-weight:600}\n"
    ".tiles small{display:block;color:var(--muted);font-size:13px;font-weight:400}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr));"
    "gap:12px}\n"
    "figure{margin:0 0 12px;background:var(--card);border:1px solid var(--grid);border-radius:8px;"
    "padding:12px 14px;overflow-x:auto}\n"
    "figcaption{font-weight:600}svg{display:block;width:100%;height:auto}\n"
    ".rows svg,.matrix svg{max-width:760px}\n"
    ".legend{margin:2px 0 6px;color:var(--soft);font-size:13px}.legend span{margin-right:16px}\n"
    ".legend i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:6px;"
    "vertical-align:middle}\n"
    "i.s0{background:var(--s0)}i.s1{background:var(--s1)}\n"
    "svg text{font:11.5px system-ui,sans-serif;fill:var(--soft)}svg .tick{fill:var(--muted)}\n"
    "svg .end{text-anchor:end}svg .mid{text-anchor:middle}svg .name{font-size:12px}\n"
    "svg .on{fill:var(--on)}svg .off{fill:var(--ink)}\n"
    ".grid{stroke:var(--grid)}.axis{stroke:var(--axis)}\n"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round}.band{opacity:.18}\n"
    ".line.s0{stroke:var(--s0)}.line.s1{stroke:var(--s1)}\n"
    ".band.s0,.dot.s0,.bar,.cell{fill:var(--s0)}.band.s1,.dot.s1{fill:var(--s1)}\n"
    ".dot{stroke:var(--card);stroke-width:1.5}\n"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:4px 14px 4px 0;text-align:left;border-bottom:1px solid var(--grid);"
    "vertical-align:top}\n"
    "th{color:var(--soft);font-weight:600}td.n,th.n{text-align:right}\n"
    "pre{background:var(--card);border:1px solid var(--grid);border-radius:8px;padding:12px 14px;"
    "overflow-x:auto;font:13px/1.45 ui-monospace,monospace}\n";

#endif
