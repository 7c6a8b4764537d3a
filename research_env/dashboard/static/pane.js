// An idea's pane, opened by the address: #idea=17.

const pane = { id: null, asked: 0, opened: null };
const details = live ? null : JSON.parse($('details').textContent);

async function ask(path) {
  const answer = await fetch(path, { headers: { Accept: 'application/json' } });
  if (!answer.ok) throw new Error(answer.status === 404 ? 'There is nothing here.' : `The dashboard answers ${answer.status}.`);
  return answer.json();
}

function follow() {
  const found = /^#idea=(\d+)$/.exec(location.hash);
  if (found) show(Number(found[1]));
  else if ($('pane').open) $('pane').close();
}

async function show(id) {
  const row = rows.get(id);
  const changed = id !== pane.id;
  pane.id = id;
  const asked = ++pane.asked;
  $('pane-id').textContent = `Idea ${id}`;
  const place = view.shown.findIndex((other) => other.id === id);
  $('pane-before').disabled = place <= 0;
  $('pane-after').disabled = place < 0 || place >= view.shown.length - 1;
  if (!$('pane').open) { pane.opened = document.activeElement; $('pane').showModal(); }
  for (const line of document.querySelectorAll('#table tr[data-id]')) line.classList.toggle('open', Number(line.dataset.id) === id);
  if (changed) { $('pane-body').replaceChildren(heading(row, id)); $('pane-body').scrollTop = 0; }
  if (!row) { $('pane-body').append(make('p', { class: 'caveat' }, 'There is no such idea.')); return; }
  try {
    const known = live ? await ask(`/idea?id=${id}`) : details[id];
    if (asked !== pane.asked) return; // another was asked for since
    const openLogs = new Set([...$('pane-body').querySelectorAll('details[open][data-key]')].map((d) => d.dataset.key));
    const top = $('pane-body').scrollTop;
    $('pane-body').replaceChildren(...drawIdea(row, known || null));
    for (const d of $('pane-body').querySelectorAll('details[data-key]')) if (openLogs.has(d.dataset.key)) d.open = true;
    $('pane-body').scrollTop = top;
  } catch (error) {
    if (asked === pane.asked) $('pane-body').append(make('p', { class: 'caveat' }, String(error.message || error)));
  }
}

function heading(row, id) {
  return make('h2', { id: 'pane-title', dir: 'auto' }, row ? row.title || 'untitled' : `Idea ${id}`);
}

function link(id) {
  const row = rows.get(id);
  return make('a', { href: `#idea=${id}`, title: row ? row.title : null }, `#${id}`);
}

function drawIdea(row, known) {
  const made = [make('div', { class: `state-${row.state}` },
    known && known.title.length > row.title.length ? make('h2', { id: 'pane-title', dir: 'auto' }, known.title) : heading(row, row.id),
    make('span', { class: 'badge' }, make('i', { class: 'mark' }), words(row.state), row.promoted ? ' · promoted' : ''),
    known && known.reason ? make('div', { class: 'reason', tabindex: 0 }, known.reason) : row.reason ? make('div', { class: 'reason' }, row.reason) : null)];
  const children = [...rows.values()].filter((other) => other.kind !== 'explore' && other.parents.includes(row.id)).map((other) => other.id);
  const better = gain(row);
  const noise = facts.noise && better !== null ? ` (${minus((better / facts.noise).toFixed(1))} × noise)` : '';
  const list = [
    ['Score', score(row.score)],
    ['Against the baseline', better === null ? null : signedGain(better) + noise],
    ['Time of its runs', row.seconds ? duration(row.seconds) : null],
    ['Cost', row.cost ? figure(row.cost) : null],
    ['Tokens', row.tokens ? row.tokens.toLocaleString('en-US') : null],
    ['Kind', row.kind], ['Strategy', row.strategy], ['Author', row.author],
    ['Niche', known && known.niche], ['Group', known && known.group],
    [row.kind === 'explore' ? 'Was shown' : 'Parents', several(row.parents)],
    ['Came of it', several(children)],
    ['Thought of', row.created ? clock(row.created) : null], ['Ended', row.finished ? clock(row.finished) : null],
  ].filter(([, value]) => value);
  made.push(make('dl', { class: 'facts-list' }, list.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', { class: Array.isArray(value) ? 'links' : '' }, typeof value === 'string' ? own(value) : value)))));
  if (!known) {
    made.push(make('p', { class: 'caveat' }, 'This file has no room for all of this idea; the bank has it: python -m research_env.dashboard WORKDIR.'));
    return made;
  }
  if (known.text) made.push(make('h3', {}, 'The idea'), make('p', { class: 'text', dir: 'auto' }, known.text));
  if (known.diff) made.push(make('h3', {}, 'What it changes'), ...drawDiff(known.diff));
  if (known.repairs.length) {
    made.push(make('h3', {}, 'Repairs'));
    for (const repair of known.repairs) {
      made.push(folded(`repair-${repair.attempt}`, `Repair ${repair.attempt}`, () => [make('pre', { tabindex: 0 }, repair.error), ...drawDiff(repair.diff)]));
    }
  }
  if (known.runs.length) made.push(make('h3', {}, 'Runs'), drawRuns(known.runs), ...known.runs.filter((run) => run.log || run.text).map(drawLog));
  if (known.context && live) {
    made.push(make('h3', {}, 'Context'), folded('context', 'What its author was shown', async () => [make('pre', { tabindex: 0 }, await ask(`/context?id=${row.id}`))]));
  }
  return made;
}

function several(ids) {
  if (!ids.length) return null;
  const links = ids.slice(0, 24).map(link);
  return ids.length > 24 ? [...links, `and ${ids.length - 24} more`] : links;
}

// Filled when it is opened.
function folded(key, label, fill) {
  const made = make('details', { 'data-key': key }, make('summary', {}, label));
  made.addEventListener('toggle', async () => {
    if (!made.open || made.children.length > 1) return;
    try { made.append(...await fill()); } catch (error) { made.append(make('p', { class: 'caveat' }, String(error.message || error))); }
  });
  return made;
}

function drawRuns(runs) {
  const metrics = [...new Set(runs.flatMap((run) => Object.keys(run.metrics)))].slice(0, 6);
  const names = ['Split', 'Seed', 'Attempt', 'State', 'Score', ...metrics.map(words), 'Time'];
  const numeric = (i) => (i === 1 || i === 2 || i > 3 ? 'number' : '');
  const lines = runs.map((run) => {
    const cells = [run.split, String(run.seed), String(run.attempt), [make('i', { class: 'mark' }), words(run.state)], score(run.score),
      ...metrics.map((name) => score(run.metrics[name])), run.seconds ? duration(run.seconds) : DASH];
    const made = [make('tr', { class: `state-${run.state}` }, cells.map((cell, i) => make('td', { class: numeric(i) }, cell)))];
    if (run.reason) made.push(make('tr', {}, make('td', { colspan: names.length }, own(run.reason))));
    return made;
  });
  return make('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Runs' },
    make('table', {}, make('thead', {}, make('tr', {}, names.map((name, i) => make('th', { scope: 'col', class: numeric(i) }, name)))), make('tbody', {}, lines)));
}

function drawLog(run) {
  const label = `Log of ${run.split}, seed ${run.seed}${run.attempt ? `, attempt ${run.attempt}` : ''}`;
  return folded(`log-${run.id}`, label, async () => {
    const text = live ? await ask(`/log?run=${run.id}`) : run.text;
    return [make('pre', { tabindex: 0, class: 'log' }, text || 'It is empty, or no longer there.')];
  });
}

function step(by) {
  const place = view.shown.findIndex((row) => row.id === pane.id);
  const next = place >= 0 && view.shown[place + by];
  if (!next) return;
  const page = Math.floor((place + by) / PAGE);
  if (page !== view.page) { view.page = page; draw(); }
  history.replaceState(null, '', `#idea=${next.id}`); // one step back leaves the pane
  follow();
}
$('pane-before').addEventListener('click', () => step(-1));
$('pane-after').addEventListener('click', () => step(1));
$('pane-close').addEventListener('click', () => $('pane').close());
$('pane').addEventListener('click', (event) => { if (event.target === $('pane')) $('pane').close(); });
$('pane').addEventListener('close', () => {
  pane.id = null;
  pane.asked++;
  if (location.hash.startsWith('#idea=')) history.pushState(null, '', location.pathname + location.search);
  for (const line of document.querySelectorAll('#table tr.open')) line.classList.remove('open');
  if (pane.opened && pane.opened.isConnected) pane.opened.focus({ preventScroll: true });
});
window.addEventListener('hashchange', follow);
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (event.key === '/' && !$('pane').open) { event.preventDefault(); $('query').focus(); }
  if (event.key === 'j' && $('pane').open) step(1);
  if (event.key === 'k' && $('pane').open) step(-1);
});
