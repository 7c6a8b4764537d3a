// What all parts share: the data, elements, and numbers as the rest of the page has them.
// Texts are the ideas' and go in as texts alone; the only markup is the server's sections, escaped
// there, which go through `gate`.

const data = JSON.parse(document.getElementById('data').textContent);
const live = data.mode === 'live';
const gate = window.trustedTypes
  ? trustedTypes.createPolicy('sections', { createHTML: (made) => made })
  : { createHTML: (made) => made };
const $ = (id) => document.getElementById(id);
const PAGE = 50;
let facts = data.facts;
const rows = new Map();
const unpack = (packed) => Object.fromEntries(data.fields.map((name, i) => [name, packed[i]]));
for (const packed of data.rows) rows.set(packed[0], unpack(packed));

// An element with texts and elements in it.
function make(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === 'class') made.className = value;
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}
// A text of a stranger: the letters around it keep their direction.
const own = (text) => make('bdi', {}, text);

// Numbers as the rest of the page has them.
const minus = (text) => text.replace(/-/g, '\u2212');
const DASH = '\u2013';
function score(value) {
  if (value === null || value === undefined) return DASH;
  const { decimals } = facts;
  if (decimals === null || decimals > 9 || Math.abs(value) >= 1e9) return minus(String(Number(value.toPrecision(5))));
  return minus(value.toFixed(decimals).replace(/^-(?=0\.?0*$)/, ''));
}
function figure(value) {
  if (!value) return value === 0 ? '0' : DASH;
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString('en-US') : minus(String(Number(value.toPrecision(3))));
}
function duration(s) {
  if (s === null || s === undefined) return DASH;
  if (s < 1) return `${Number(s.toPrecision(1))} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return s < 360000 ? `${(s / 3600).toFixed(1)} h` : `${Math.round(s / 86400)} days`;
}
function clock(seconds) {
  if (!seconds) return DASH;
  const at = new Date(seconds * 1000);
  const time = at.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
  const today = at.toDateString() === new Date(facts.now * 1000).toDateString();
  return today ? time : `${at.toLocaleDateString([], { month: 'short', day: 'numeric' })} ${time}`;
}
const words = (name) => name.replace(/_/g, ' ');
function gain(row) {
  if (row.score === null || facts.baseline === null || row.kind === 'baseline') return null;
  return (row.score - facts.baseline) * (facts.maximize ? 1 : -1);
}
function signedGain(value) {
  return value === null ? DASH : (value > 0 ? '+' : '') + score(value);
}
