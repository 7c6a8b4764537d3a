// The table of ideas: sorted, filtered, a page at a time.

const COLUMNS = [
  ['id', '#', (row) => row.id],
  ['title', 'Idea', (row) => row.title.toLowerCase()],
  ['state', 'State', (row) => row.state],
  ['score', 'Score', (row) => row.score],
  ['gain', 'Gain', gain],
  ['cost', 'Cost', (row) => row.cost],
  ['seconds', 'Time', (row) => row.seconds],
  ['kind', 'Kind', (row) => row.kind],
  ['strategy', 'Strategy', (row) => row.strategy.toLowerCase()],
  ['author', 'Author', (row) => row.author.toLowerCase()],
  ['finished', 'Ended', (row) => row.finished],
];
const NUMBERS = new Set(['score', 'gain', 'cost', 'seconds', 'finished']);
const view = { sort: 'gain', up: false, page: 0, shown: [], fresh: new Set() };
if (facts.baseline === null) Object.assign(view, { sort: 'score', up: !facts.maximize });

const head = document.querySelector('#table thead tr');
for (const [name, label] of COLUMNS) {
  const button = make('button', { type: 'button', 'data-sort': name }, label);
  const numeric = NUMBERS.has(name) ? ' number' : '';
  head.append(make('th', { scope: 'col', class: `w-${name}${numeric}` }, button));
  $('sort').append(make('option', { value: name }, `Sort: ${label === '#' ? 'number' : label.toLowerCase()}`));
}

function sortBy(name) {
  const same = view.sort === name;
  view.up = same ? !view.up : !(name === 'gain' || name === 'finished' || (name === 'score' && facts.maximize));
  view.sort = name;
  view.page = 0;
  draw();
}

function chosen() {
  const query = $('query').value.trim().toLowerCase();
  const number = /^#(\d+)$/.exec(query);
  const exact = ['state', 'kind', 'strategy', 'author'].map((name) => [name, $(name).value]).filter(([, value]) => value);
  const promoted = $('promoted').checked;
  $('reset').hidden = !(query || exact.length || promoted);
  return [...rows.values()].filter((row) => {
    if (promoted && !row.promoted) return false;
    if (exact.some(([name, value]) => row[name] !== value)) return false;
    if (number) return row.id === Number(number[1]);
    return !query || [row.title, row.author, row.reason, row.strategy].some((text) => text.toLowerCase().includes(query));
  });
}

function sorted(found) {
  const key = COLUMNS.find(([name]) => name === view.sort)[2];
  const sign = view.up ? 1 : -1;
  const keyed = found.map((row) => [key(row), row]);
  keyed.sort(([a, p], [b, q]) => {
    // What has no value comes last, whichever way is up.
    if (a === null || b === null) return (a === null) - (b === null) || q.id - p.id;
    return (a < b ? -sign : a > b ? sign : 0) || p.id - q.id;
  });
  return keyed.map(([, row]) => row);
}

function draw() {
  view.shown = sorted(chosen());
  const pages = Math.max(1, Math.ceil(view.shown.length / PAGE));
  view.page = Math.min(view.page, pages - 1);
  const first = view.page * PAGE;
  const body = document.querySelector('#table tbody');
  const focused = body.contains(document.activeElement) ? document.activeElement.getAttribute('href') : null;
  const made = view.shown.slice(first, first + PAGE).map(drawRow);
  if (!made.length) made.push(make('tr', {}, make('td', { class: 'nothing', colspan: COLUMNS.length }, rows.size ? 'No idea is like that.' : 'No idea yet.')));
  body.replaceChildren(...made);
  view.fresh.clear();
  if (focused) body.querySelector(`a[href="${focused}"]`)?.focus({ preventScroll: true });
  for (const cell of head.children) {
    const is = cell.firstChild.dataset.sort === view.sort;
    if (is) cell.setAttribute('aria-sort', view.up ? 'ascending' : 'descending');
    else cell.removeAttribute('aria-sort');
    const label = COLUMNS.find(([name]) => name === cell.firstChild.dataset.sort)[1];
    cell.firstChild.textContent = label + (is ? (view.up ? ' ↑' : ' ↓') : '');
  }
  $('sort').value = view.sort;
  const last = Math.min(first + PAGE, view.shown.length);
  $('where').textContent = view.shown.length ? `${(first + 1).toLocaleString('en-US')}–${last.toLocaleString('en-US')} of ${view.shown.length.toLocaleString('en-US')}` : '';
  $('before').disabled = view.page === 0;
  $('after').disabled = view.page >= pages - 1;
  document.querySelector('.pager').hidden = view.shown.length <= PAGE;
  for (const chip of document.querySelectorAll('.chip')) chip.setAttribute('aria-pressed', chip.dataset.state === $('state').value);
}

function drawRow(row) {
  const better = gain(row);
  const failed = row.score === null && row.reason;
  const title = [make('a', { href: `#idea=${row.id}`, title: row.title },
    row.promoted ? make('span', { class: 'star', title: 'Promoted: run again on the selection split' }, '★ ') : null,
    own(row.title || 'untitled'))];
  if (failed) title.push(make('span', { class: 'why', title: row.reason }, own(row.reason)));
  const cells = {
    id: String(row.id),
    state: [make('i', { class: 'mark' }), words(row.state)],
    score: score(row.score),
    gain: signedGain(better),
    cost: row.cost ? figure(row.cost) : DASH,
    seconds: row.seconds ? duration(row.seconds) : DASH,
    kind: row.kind, strategy: own(row.strategy), author: own(row.author), finished: clock(row.finished),
  };
  const classes = [`state-${row.state}`];
  if (view.fresh.has(row.id)) classes.push('new');
  if (row.id === pane.id) classes.push('open');
  return make('tr', { class: classes.join(' '), 'data-id': row.id }, COLUMNS.map(([name]) => {
    if (name === 'title') return make('th', { scope: 'row', class: 'w-title' }, title);
    const kind = [`w-${name}`];
    if (NUMBERS.has(name)) kind.push('number');
    if (name === 'gain' && better !== null) kind.push(better > 0 ? 'good' : 'worse');
    return make('td', { class: kind.join(' ') }, cells[name]);
  }));
}

// The choices of a filter are what there is to choose.
function fillFilters() {
  for (const name of ['state', 'kind', 'strategy', 'author']) {
    const select = $(name);
    const there = [...new Set([...rows.values()].map((row) => row[name]))].filter(Boolean).sort();
    $('table').classList.toggle(`one-${name}`, there.length < 2);
    const before = [...select.options].slice(1).map((option) => option.value);
    if (there.join('\n') === before.join('\n')) continue;
    const value = select.value;
    select.replaceChildren(select.options[0], ...there.map((text) => make('option', { value: text }, words(text))));
    select.value = there.includes(value) ? value : '';
  }
}

$('filters').addEventListener('input', () => { view.page = 0; draw(); });
$('filters').addEventListener('submit', (event) => event.preventDefault());
$('filters').addEventListener('reset', () => setTimeout(() => { view.page = 0; draw(); }));
$('sort').addEventListener('input', (event) => { event.stopPropagation(); sortBy($('sort').value); });
head.addEventListener('click', (event) => { const name = event.target.dataset.sort; if (name) sortBy(name); });
const turn = (by) => { view.page += by; draw(); document.querySelector('#ideas').scrollIntoView({ block: 'start' }); };
$('before').addEventListener('click', () => turn(-1));
$('after').addEventListener('click', () => turn(1));
document.querySelector('#table tbody').addEventListener('click', (event) => {
  const row = event.target.closest('tr[data-id]');
  if (row && !event.target.closest('a') && !getSelection().toString()) location.hash = `idea=${row.dataset.id}`;
});
document.addEventListener('click', (event) => {
  const chip = event.target.closest('.chip');
  if (!chip) return;
  $('state').value = $('state').value === chip.dataset.state ? '' : chip.dataset.state;
  view.page = 0;
  draw();
  $('ideas').scrollIntoView({ block: 'start', behavior: 'smooth' });
});
