// What changes by itself, and the start of it all.

const offset = Date.now() / 1000 - facts.now; // between this clock and the server's
function tick() {
  const now = Date.now() / 1000 - offset;
  for (const place of document.querySelectorAll('[data-since]')) place.textContent = duration(Math.max(0, now - place.dataset.since));
  for (const place of document.querySelectorAll('[data-until]')) place.textContent = duration(Math.max(0, place.dataset.until - now));
}

function put(name, made) {
  const place = $(`section-${name}`);
  if (!place) return;
  const scrolled = [...place.querySelectorAll('.lineage, .scroll')].map((box) => [box.scrollTop, box.scrollLeft]);
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  const selector = focused && (focused.getAttribute('href') ? `[href="${focused.getAttribute('href')}"]` : focused.dataset.state ? `[data-state="${focused.dataset.state}"]` : null);
  place.innerHTML = gate.createHTML(made);
  [...place.querySelectorAll('.lineage, .scroll')].forEach((box, i) => { if (scrolled[i]) [box.scrollTop, box.scrollLeft] = scrolled[i]; });
  if (selector) place.querySelector(selector)?.focus({ preventScroll: true });
}

function name() {
  const best = facts.best === null ? '' : `${score(facts.best)} · `;
  document.title = `${best}${facts.ended.toLocaleString('en-US')} ideas · ${facts.title}`;
}

function connect() {
  let known = { epoch: data.epoch, revision: data.revision };
  let busy = false, wanted = false;
  const said = (text, kind) => { if ($('live').textContent !== text) $('live').textContent = text; $('live').className = kind; };
  function stands() {
    if (facts.over) said('The search has ended', '');
    else if (facts.running === false) said('No search is running here', 'lost');
    else said('Live', 'on');
  }
  async function update() {
    if (busy || document.hidden) { wanted = true; return; }
    busy = true; wanted = false;
    try {
      const news = await ask(`/state?epoch=${known.epoch}&since=${known.revision}`);
      known = news;
      facts = news.facts;
      if (news.all) rows.clear();
      for (const packed of news.rows) { rows.set(packed[0], unpack(packed)); if (!news.all) view.fresh.add(packed[0]); }
      for (const [section, made] of Object.entries(news.sections)) put(section, made);
      fillFilters(); draw(); tick(); name();
      if (pane.id !== null && news.rows.some((packed) => packed[0] === pane.id)) show(pane.id);
      if (news.trouble) said(`The bank cannot be read: ${news.trouble}`, 'lost');
      else stands();
    } catch { said('No connection', 'lost'); }
    busy = false;
    if (wanted) setTimeout(update, 300);
  }
  const events = () => {
    const source = new EventSource('/events');
    source.onmessage = update;
    source.onopen = stands;
    source.onerror = () => {
      said('No connection', 'lost');
      if (source.readyState === EventSource.CLOSED) setTimeout(events, 5000);
    };
  };
  document.addEventListener('visibilitychange', () => { if (!document.hidden && wanted) update(); });
  setInterval(tick, 1000);
  events();
}

fillFilters();
draw();
name();
if (live) connect();
follow();
