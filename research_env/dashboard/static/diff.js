// A change, line by line.

const MOST_LINES = 600; // until more are asked for
const TOKENS = /(#.*)|("""(?:(?!""").)*(?:""")?|'''(?:(?!''').)*(?:''')?|"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)|\b(False|None|True|and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|in|is|lambda|nonlocal|not|or|pass|raise|return|try|while|with|yield)\b|\b(\d[\d_.]*(?:[eE][-+]?\d+)?)\b/g;

// Of each line: add, del, hunk or nothing; its numbers; and its text. Files are apart.
function parseDiff(diff) {
  const files = [];
  let file = null, before = 0, after = 0, block = '';
  const start = (name) => { files.push(file = { name, lines: [] }); };
  const push = (kind, text) => {
    if (!file) start('');
    const line = { kind, text, before: '', after: '' };
    if (before || after) {
      if (kind !== 'add') line.before = before++;
      if (kind !== 'del') line.after = after++;
    }
    file.lines.push(line);
  };
  const lines = diff.replace(/\n$/, '').split('\n');
  for (let i = 0; i < lines.length; i++) {
    const text = lines[i];
    const hunk = /^@@+ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@/.exec(text);
    if (/^diff --git /.test(text)) { file = null; before = after = 0; block = ''; }
    else if (/^--- /.test(text) && /^\+\+\+ /.test(lines[i + 1] || '')) {
      const [from, to] = [text, lines[i + 1]].map((line) => line.slice(4).split('\t')[0].replace(/^[ab]\//, ''));
      start(to === '/dev/null' ? `${from} (deleted)` : from === '/dev/null' ? `${to} (new)` : from === to ? to : `${from} → ${to}`);
      before = after = 0;
      i++;
    } else if (hunk) {
      if (!file) start('');
      file.lines.push({ kind: 'hunk', text, before: '', after: '' });
      before = Number(hunk[1]); after = Number(hunk[2]); block = '';
    } else if (/^<{5,} ?SEARCH/.test(text)) { if (!file) start(''); file.lines.push({ kind: 'hunk', text, before: '', after: '' }); block = 'del'; before = after = 0; }
    else if (block === 'del' && /^={5,}$/.test(text)) block = 'add';
    else if (block && /^>{5,} ?REPLACE/.test(text)) block = '';
    else if (block) push(block, text);
    else if (/^(index|new file|deleted file|similarity|rename|old mode|new mode|Binary) ?/.test(text) && !before && !after) { if (!file) start(''); file.lines.push({ kind: 'hunk', text, before: '', after: '' }); }
    else if (text[0] === '+') push('add', text.slice(1));
    else if (text[0] === '-') push('del', text.slice(1));
    else if (text[0] === '\\') file && file.lines.push({ kind: 'hunk', text, before: '', after: '' });
    else push('', text[0] === ' ' ? text.slice(1) : text);
  }
  return files;
}

// Lines that were changed, not only taken out or put in: what differs in them.
function markChanges(lines) {
  for (let i = 0; i < lines.length; i++) {
    let d = i; while (d < lines.length && lines[d].kind === 'del') d++;
    let a = d; while (a < lines.length && lines[a].kind === 'add') a++;
    if (d > i) {
      for (let k = 0; k < Math.min(d - i, a - d); k++) {
        const [p, q] = [lines[i + k], lines[d + k]];
        const most = Math.min(p.text.length, q.text.length);
        if (most > 2000) continue;
        let head = 0; while (head < most && p.text[head] === q.text[head]) head++;
        let tail = 0; while (tail < most - head && p.text.at(-1 - tail) === q.text.at(-1 - tail)) tail++;
        // Whole words and numbers: 0.003 became 0.006, not 3 became 6.
        while (head > 0 && /[\w.]/.test(p.text[head - 1])) head--;
        while (tail > 0 && /[\w.]/.test(p.text.at(-tail))) tail--;
        if (head + tail > 0.3 * most) for (const line of [p, q]) line.mark = [head, line.text.length - tail];
      }
    }
    if (a > i) i = a - 1;
  }
}

function drawCode(line) {
  const text = line.text.length > 4000 ? `${line.text.slice(0, 4000)} …` : line.text;
  if (line.kind === 'hunk') return [text];
  const kinds = [];
  const cuts = new Set([0, text.length]);
  for (const found of text.matchAll(TOKENS)) {
    const kind = found[1] ? 'm' : found[2] ? 's' : found[3] ? 'k' : 'n';
    kinds.push([found.index, found.index + found[0].length, kind]);
    cuts.add(found.index).add(found.index + found[0].length);
  }
  if (line.mark) for (const at of line.mark) cuts.add(Math.min(at, text.length));
  const places = [...cuts].sort((a, b) => a - b);
  let next = 0;
  return places.slice(0, -1).map((from, i) => {
    const to = places[i + 1];
    while (next < kinds.length && kinds[next][1] <= from) next++;
    const kind = next < kinds.length && kinds[next][0] <= from ? kinds[next][2] : '';
    const marked = line.mark && from >= line.mark[0] && to <= line.mark[1];
    const piece = text.slice(from, to);
    return kind || marked ? make('span', { class: [kind, marked ? 'x' : ''].join(' ').trim() }, piece) : piece;
  });
}

function drawDiff(diff) {
  return parseDiff(diff).map((file) => {
    markChanges(file.lines);
    const table = make('div', {});
    const some = (from, to) => file.lines.slice(from, to).map((line) => make('div', { class: `l ${line.kind}` },
      make('span', { class: 'g' }, String(line.before)), make('span', { class: 'g' }, String(line.after)),
      make('span', { class: 'g', 'aria-hidden': 'true' }, line.kind === 'add' ? '+' : line.kind === 'del' ? '\u2212' : ''),
      make('span', { class: 'c' }, drawCode(line))));
    table.append(...some(0, MOST_LINES));
    const made = make('div', { class: 'diff' }, file.name ? make('div', { class: 'file' }, own(file.name)) : null,
      make('div', { class: 'lines', tabindex: 0, role: 'region', 'aria-label': `Change of ${file.name || 'a file'}` }, table));
    if (file.lines.length > MOST_LINES) {
      const more = make('button', { type: 'button', class: 'rest' }, `${(file.lines.length - MOST_LINES).toLocaleString('en-US')} more lines`);
      more.addEventListener('click', () => { more.remove(); table.append(...some(MOST_LINES)); });
      made.append(more);
    }
    return made;
  });
}
