// The picture of a backtest, drawn from the numbers that stand beside it; it asks nobody for anything.
(() => {
  const DASHES = { stop: [5, 3], target: [1.5, 3], open: [2, 4] }
  const CANDLE = 4, MARKED = 300, APART = 14, LOG_FROM = 3 // pixels, fills, pixels, largest over smallest
  const MINUTE = 6e4, HOUR = 36e5, DAY = 864e5
  const SPANS = [1, 2, 5, 10, 15, 30].map(n => n * MINUTE).concat([1, 2, 3, 6, 12].map(n => n * HOUR), [1, 2, 4, 7, 14].map(n => n * DAY))

  // each column is whole steps from a base, as differences to its value before or to another column, one plane of bytes after the other; 0 is missing
  const unpacked = async host => {
    const packed = Uint8Array.from(atob(host.dataset.numbers), letter => letter.charCodeAt(0))
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer())
    const spec = JSON.parse(host.dataset.spec), columns = {}
    let at = 0
    for (const { name, n, width, base, step, over, back } of spec.columns) {
      const values = columns[name] = new Float64Array(n), near = columns[over]
      for (let i = 0, sum = 0; i < n; i++) {
        let whole = 0
        for (let plane = width - 1; plane >= 0; plane--) whole = whole * 256 + bytes[at + plane * n + i]
        if (near) sum = whole
        else sum += whole % 2 ? -(whole + 1) / 2 : whole / 2
        values[i] = sum ? base + (sum - 1) * step + (near ? near[Math.max(i - back, 0)] : 0) : NaN
      }
      at += n * width
    }
    return [spec, columns]
  }

  // first position whose value is not below
  const place = (list, value) => {
    let low = 0, high = list.length
    while (low < high) { const mid = (low + high) >> 1; if (list[mid] < value) low = mid + 1; else high = mid }
    return low
  }
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high)

  const written = (value, places, signed) => {
    const text = Math.abs(value).toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places })
    const isZero = !/[1-9]/.test(text)
    return (value < 0 && !isZero ? "−" : signed && !isZero ? "+" : "") + text
  }
  const short = value => value.toLocaleString("en-US", { maximumSignificantDigits: 6 }).replace("-", "−")
  const stamp = ms => new Date(ms).toISOString().slice(0, 16).replace("T", " ")
  const day = ms => new Date(ms).toISOString().slice(0, 10)
  const length = ms => {
    const [unit, name] = [[DAY, "day"], [HOUR, "hour"], [MINUTE, "minute"]].find(([unit]) => ms >= 2 * unit || ms === unit) || [MINUTE, "minute"]
    const count = Math.round(ms / unit)
    return `${count.toLocaleString("en-US")} ${name}${count === 1 ? "" : "s"}`
  }

  const dates = (since, until, most) => {
    const span = SPANS.find(step => (until - since) / step <= most), found = []
    if (span) {
      for (let ms = Math.ceil(since / span) * span; ms < until; ms += span) found.push([ms, span < DAY ? stamp(ms).slice(span < HOUR || (until - since) < 2 * DAY ? 11 : 5) : day(ms).slice(5)])
      return found
    }
    const months = [1, 2, 3, 6, 12, 24, 60].find(n => (until - since) / (n * 30.4 * DAY) <= most) || 120
    const first = new Date(since)
    for (let m = Math.ceil((first.getUTCFullYear() * 12 + first.getUTCMonth()) / months) * months; ; m += months) {
      const ms = Date.UTC(Math.floor(m / 12), m % 12)
      if (ms >= until) return found
      if (ms >= since) found.push([ms, day(ms).slice(0, months < 12 ? 7 : 4)])
    }
  }

  const rounds = (low, high, wanted, isLog) => {
    if (isLog) {
      for (const times of [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
        const found = []
        for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p++) for (const t of times) if (t * 10 ** p >= low && t * 10 ** p <= high) found.push(t * 10 ** p)
        if (found.length <= wanted + 2) return [found, Math.max(0, 1 - Math.floor(Math.log10(low)))]
      }
    }
    const rough = Math.max(high - low, 1e-12) / wanted, power = 10 ** Math.floor(Math.log10(rough))
    const step = power * [1, 2, 5, 10].find(t => t * power >= rough * 0.999), found = []
    for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) found.push(k * step || 0)
    return [found, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))]
  }

  const alive = async host => {
    const [spec, c] = await unpacked(host)
    const bars = c.when.length, bar = spec.bar_ms, all = { since: spec.since, until: spec.until }
    const view = { ...all }, canvas = host.querySelector("canvas"), tip = host.querySelector(".at-tip"), seen = host.querySelector(".at-seen")
    const pen = canvas.getContext("2d"), shown = {}
    let wide = 0, left = 0, right = 0, pointer = null, drawn = [], colour = () => "", panels = []

    const x = ms => left + (right - left) * (ms - view.since) / (view.until - view.since)
    const ms_at = px => view.since + (px - left) * (view.until - view.since) / (right - left)

    const laid = () => {
      const isPhone = wide < 600, panel = (name, high, more) => ({ name, high, lines: [], ...more })
      panels = [panel("price", isPhone ? 250 : 320, { title: `price, ${spec.unit}`, places: spec.places, log: true, wanted: 6 })]
      for (const line of spec.lines) {
        let home = panels.find(each => each.name === line.panel)
        if (!home) panels.push(home = panel(line.panel, 74, { title: line.panel, wanted: 3 }))
        home.lines.push(line)
      }
      if (spec.is_scaled) panels.push(panel("held", 44, { title: "position", wanted: 2 }))
      panels.push(panel("equity", isPhone ? 110 : 130, { title: `money, ${spec.unit}`, places: 0, log: true, wanted: 5 }))
      panels.push(panel("fall", 58, { title: "drawdown, %", wanted: 2 }))
      let top = 4
      for (const each of panels) { each.top = top + 20; each.floor = each.top + each.high; top = each.floor + 6 }
      return top + 20
    }

    const sized = () => {
      wide = Math.max(host.clientWidth, 200)
      left = wide < 600 ? 0 : 66
      right = wide - (wide < 600 ? 2 : 8)
      const high = laid(), dots = window.devicePixelRatio || 1
      canvas.style.height = `${high}px`
      canvas.width = Math.round(wide * dots)
      canvas.height = Math.round(high * dots)
      pen.setTransform(dots, 0, 0, dots, 0, 0)
      draw()
    }

    // bars that share a pixel, as places of their first ones; the end closes them
    const grouped = (from, to) => {
      if (to - from <= right - left) return Int32Array.from({ length: to - from + 1 }, (_, i) => from + i)
      const starts = []
      for (let i = from, last = -1e9; i < to; i++) { const px = Math.floor(x(c.when[i])); if (px !== last) { starts.push(i); last = px } }
      starts.push(to)
      return Int32Array.from(starts)
    }
    const reach = (low, high, starts) => {
      const n = starts.length - 1, found = { low: new Float64Array(n).fill(NaN), high: new Float64Array(n).fill(NaN), last: new Float64Array(n) }
      for (let g = 0; g < n; g++) {
        let least = Infinity, most = -Infinity
        for (let i = starts[g]; i < starts[g + 1]; i++) { if (low[i] < least) least = low[i]; if (high[i] > most) most = high[i] }
        if (Number.isFinite(least + most)) { found.low[g] = Math.min(least, most); found.high[g] = Math.max(least, most) }
        found.last[g] = high[starts[g + 1] - 1]
      }
      return found
    }

    const bounds = (panel, ...series) => {
      let low = Infinity, high = -Infinity
      for (const each of series) for (let g = 0; g < each.low.length; g++) { if (each.low[g] < low) low = each.low[g]; if (each.high[g] > high) high = each.high[g] }
      if (low > high) [low, high] = [0, 1]
      return [low, high]
    }
    const scaled = (panel, low, high, air = 0.06) => {
      const isLog = !!panel.log && low > 0 && high / low > LOG_FROM, to = isLog ? Math.log : v => v
      const pad = air * (to(high) - to(low)) || 0.01 * Math.abs(high) || 1
      const a = to(low) - pad, b = to(high) + pad
      Object.assign(panel, { isLog, low: isLog ? Math.exp(a) : a, limit: isLog ? Math.exp(b) : b, y: v => panel.floor - (panel.floor - panel.top) * (to(v) - a) / (b - a) })
    }

    const clipped = (panel, work) => {
      pen.save(); pen.beginPath(); pen.rect(left, panel.top - 1, right - left, panel.high + 2); pen.clip(); work(); pen.restore()
    }
    const stroke = (path, name, width = 1.5, dash = [], alpha = 1) => {
      pen.globalAlpha = alpha; pen.strokeStyle = colour(name); pen.lineWidth = width; pen.setLineDash(dash); pen.lineJoin = "round"; pen.stroke(path); pen.setLineDash([]); pen.globalAlpha = 1
    }
    const line = (panel, series, xs, starts) => {
      const path = new Path2D()
      let isBroken = true
      for (let g = 0; g < xs.length; g++) {
        if (!(series.low[g] <= series.high[g])) { isBroken = true; continue }
        const go = v => { isBroken ? path.moveTo(xs[g], panel.y(v)) : path.lineTo(xs[g], panel.y(v)); isBroken = false }
        if (starts[g + 1] - starts[g] > 1 || spec.is_joined) { go(series.low[g]); go(series.high[g]) }
        go(series.last[g])
      }
      return path
    }
    const say = (text, px, py, name = "dim", align = "left", bold = false) => {
      pen.font = `${bold ? 600 : 400} 12px system-ui,-apple-system,'Segoe UI',sans-serif`
      pen.fillStyle = colour(name); pen.textAlign = align; pen.fillText(text, px, py)
      return pen.measureText(text).width
    }

    const framed = panel => {
      const [ticks, places] = rounds(panel.low, panel.limit, panel.wanted, panel.isLog), isPhone = wide < 600
      pen.fillStyle = colour("grid")
      for (const tick of ticks) {
        const y = panel.y(tick)
        if (y < panel.top - 1 || y > panel.floor + 1) continue
        pen.fillRect(left, Math.round(y), right - left, 1)
      }
      panel.named = () => {
        for (const tick of ticks) {
          const y = panel.y(tick)
          if (y < panel.top + (isPhone ? 8 : -1) || y > panel.floor + 1) continue
          const text = panel.isLog || panel.name === "held" ? short(tick) : written(tick, places)
          if (isPhone) { pen.strokeStyle = colour("back"); pen.lineWidth = 3; pen.lineJoin = "round"; pen.font = "11px system-ui,sans-serif"; pen.textAlign = "left"; pen.strokeText(text, left, y - 3) }
          say(text, isPhone ? left : left - 8, isPhone ? y - 3 : y + 4, "dim", isPhone ? "left" : "right")
        }
      }
    }
    const headed = (panel, told) => {
      let at = left
      at += say(panel.title + (panel.isLog ? ", log" : ""), at, panel.top - 6) + 14
      for (const [text, name, dash] of told) {
        const path = new Path2D(); path.moveTo(at, panel.top - 10); path.lineTo(at + 16, panel.top - 10)
        stroke(path, name, 2, dash || [])
        at += 20 + say(text, at + 20, panel.top - 6, "ink") + 12
      }
    }

    const mark = (kind, px, py, r, name) => {
      pen.beginPath(); pen.fillStyle = pen.strokeStyle = colour(name); pen.lineWidth = 1.75
      if (kind === "long" || kind === "short") {
        const s = kind === "long" ? 1 : -1
        pen.moveTo(px, py - s * r); pen.lineTo(px + 0.9 * r, py + s * 0.75 * r); pen.lineTo(px - 0.9 * r, py + s * 0.75 * r); pen.closePath(); pen.fill()
      } else if (kind === "outside") {
        pen.lineWidth = 2.5; pen.moveTo(px - r, py - r); pen.lineTo(px + r, py + r); pen.moveTo(px - r, py + r); pen.lineTo(px + r, py - r); pen.stroke()
      } else if (kind === "open") {
        pen.moveTo(px - r, py); pen.lineTo(px, py - r); pen.lineTo(px + r, py); pen.lineTo(px, py + r); pen.closePath(); pen.stroke()
      } else {
        pen.arc(px, py, 0.72 * r, 0, 7)
        if (kind === "won") pen.fill()
        else { pen.fillStyle = colour("back"); pen.fill(); pen.stroke() }
      }
    }

    const candled = (panel, from, to) => {
      const body = clamp(0.68 * (x(c.when[from] + bar) - x(c.when[from])), 1, 24)
      pen.fillStyle = pen.strokeStyle = colour("candle")
      for (let i = from; i < to; i++) {
        const mid = x(c.when[i] + bar / 2), high = panel.y(c.high[i]), low = panel.y(c.low[i])
        const opened = panel.y(c.open[i]), closed = panel.y(c.close[i]), rose = c.close[i] >= c.open[i]
        pen.fillRect(mid - 0.5, high, 1, Math.max(low - high, 1))
        const top = Math.min(opened, closed), tall = Math.max(Math.abs(opened - closed), 1)
        if (rose && body > 3 && tall > 2) { pen.fillStyle = colour("back"); pen.fillRect(mid - body / 2, top, body, tall); pen.lineWidth = 1; pen.strokeRect(mid - body / 2 + 0.5, top + 0.5, body - 1, tall - 1); pen.fillStyle = colour("candle") }
        else pen.fillRect(mid - body / 2, top, body, tall)
      }
    }
    const banded = (panel, prices, closes, xs, starts) => {
      pen.fillStyle = colour("band")
      const step = xs.length > 1 ? Math.max((xs[xs.length - 1] - xs[0]) / (xs.length - 1), 1) : 1
      for (let g = 0; g < xs.length; g++) { const y = panel.y(prices.high[g]); pen.fillRect(xs[g] - step / 2, y, step, Math.max(panel.y(prices.low[g]) - y, 1)) }
      const path = new Path2D()
      for (let g = 0; g < xs.length; g++) g ? path.lineTo(xs[g], panel.y(closes.last[g])) : path.moveTo(xs[g], panel.y(closes.last[g]))
      stroke(path, "ink", 1, [], 0.8)
    }

    const stepped = panel => {
      let from = place(c.stop_until, view.since)
      const to = place(c.stop_when, view.until)
      const drawn = []
      if (to - from > 4 * MARKED) return drawn
      for (const [name, dash] of [["stop", DASHES.stop], ["target", DASHES.target]]) {
        const prices = c[`${name}_price`]
        const path = new Path2D()
        for (let i = from; i < to; i++) {
          if (!(prices[i] > 0)) continue
          const y = panel.y(prices[i]), begin = x(c.stop_when[i])
          if (i > from && c.stop_until[i - 1] === c.stop_when[i] && prices[i - 1] > 0) { path.moveTo(begin, panel.y(prices[i - 1])); path.lineTo(begin, y) } else path.moveTo(begin, y)
          path.lineTo(x(c.stop_until[i]), y)
        }
        stroke(path, "dim", 1.25, dash)
        if (prices.subarray(from, to).some(price => price > 0)) drawn.push([name, "dim", dash])
      }
      return drawn
    }

    const entered = i => c.fill_opens[i] > 0
    const kind_of = i => spec.outside.includes(c.fill_reason[i]) ? "outside" : entered(i) ? (c.fill_side[i] > 0 ? "long" : "short") : c.trip_pnl[c.fill_trip[i]] > 0 ? "won" : "lost"
    const ink_of = i => entered(i) ? "ink" : c.trip_pnl[c.fill_trip[i]] > 0 ? "line" : "loss"
    const picked = panel => {
      const from = place(c.fill_when, view.since), to = place(c.fill_when, view.until), found = []
      for (let i = from; i < to; i++) found.push(i)
      if (found.length <= MARKED) return [found, to - from]
      const cells = new Map()
      for (const i of found) {
        const key = Math.floor(x(c.fill_when[i]) / APART) * 4096 + Math.floor(panel.y(c.fill_price[i]) / APART), other = cells.get(key)
        const weighs = k => (spec.outside.includes(c.fill_reason[k]) ? 1e15 : 0) + Math.abs(c.trip_pnl[c.fill_trip[k]])
        if (other === undefined || weighs(i) >= weighs(other)) cells.set(key, i)
      }
      return [[...cells.values()].sort((a, b) => a - b), to - from]
    }

    const traded = (panel, fills, isThinned) => {
      if (!isThinned) {
        const won = new Path2D(), lost = new Path2D(), open = new Path2D()
        for (let k = place(c.trip_closed, view.since); k < c.trip_opened.length && c.trip_opened[k] < view.until; k++) {
          const path = c.trip_ended[k] < 0 ? open : c.trip_pnl[k] > 0 ? won : lost
          path.moveTo(x(c.trip_opened[k]), panel.y(c.trip_entry[k])); path.lineTo(x(c.trip_closed[k]), panel.y(c.trip_exit[k]))
        }
        stroke(won, "line", 1.5); stroke(lost, "loss", 1.5); stroke(open, "ink", 1.5, DASHES.open)
      }
      drawn = []
      for (const i of fills) {
        const px = x(c.fill_when[i]), py = panel.y(c.fill_price[i]), r = isThinned ? 4 : 4 + 4 * Math.sqrt(c.fill_qty[i] / spec.largest)
        mark(kind_of(i), px, py, r, ink_of(i))
        drawn.push([px, py, i])
      }
      const k = c.trip_ended.length - 1
      if (k >= 0 && c.trip_ended[k] < 0 && x(c.trip_closed[k]) <= right + 1) mark("open", Math.min(x(c.trip_closed[k]), right - 8), panel.y(c.trip_exit[k]), 6, "ink")
    }
    const funded = panel => {
      const middle = panel.floor - 6
      let last = -9
      for (let i = place(c.paid_when, view.since); i < c.paid_when.length && c.paid_when[i] < view.until; i++) {
        const px = Math.round(x(c.paid_when[i])), gained = c.paid_amount[i] > 0
        if (px - last < 2) continue
        pen.fillStyle = colour(gained ? "line" : "loss"); pen.fillRect(px, gained ? middle - 5 : middle, 1, 5)
        last = px
      }
    }

    const held = panel => {
      const from = Math.max(place(c.fill_when, view.since) - 1, 0), path = new Path2D(), zero = panel.y(0)
      path.moveTo(left, zero)
      let y = from < c.fill_when.length && c.fill_when[from] <= view.since ? panel.y(c.fill_held[from]) : zero
      path.lineTo(left, y)
      for (let i = from; i < c.fill_when.length && c.fill_when[i] < view.until; i++) {
        if (c.fill_when[i] < view.since) continue
        path.lineTo(x(c.fill_when[i]), y); y = panel.y(c.fill_held[i]); path.lineTo(x(c.fill_when[i]), y)
      }
      path.lineTo(x(Math.min(view.until, spec.until)), y); path.lineTo(x(Math.min(view.until, spec.until)), zero)
      pen.globalAlpha = 0.3; pen.fillStyle = colour("line"); pen.fill(path); pen.globalAlpha = 1
      stroke(path, "line", 1)
    }

    const draw = () => {
      const inks = getComputedStyle(host)
      colour = name => inks.getPropertyValue(`--${name}`)
      pen.clearRect(0, 0, wide, canvas.height)
      const from = Math.max(place(c.when, view.since - bar + 1) - 1, 0), to = Math.min(Math.max(place(c.when, view.until), from + 1) + 1, bars)
      const starts = grouped(from, to), n = starts.length - 1, xs = new Float64Array(n), ends = new Float64Array(n)
      for (let g = 0; g < n; g++) {
        xs[g] = x(c.when[starts[g]] + (starts[g + 1] - starts[g]) * bar / 2)
        ends[g] = x(c.when[starts[g + 1] - 1] + bar) // what is known at a close stands there
      }
      const isCandles = n === to - from && (right - left) / Math.max((view.until - view.since) / bar, 1) >= CANDLE
      const prices = reach(c.low, c.high, starts), closes = reach(c.close, c.close, starts), lines = new Map()
      for (const each of spec.lines) lines.set(each, reach(c[each.low], c[each.high], starts))
      const [price, ...below] = panels
      let [low, high] = bounds(price, prices)
      const slack = 0.5 * (high - low)
      for (const each of price.lines) { const [a, b] = bounds(price, lines.get(each)); if (b >= low - slack && a <= high + slack && a < b) { low = Math.max(Math.min(low, a), low - slack); high = Math.min(Math.max(high, b), high + slack) } }
      scaled(price, low, high)
      const money = reach(c.equity_low, c.equity_high, starts), kept = spec.is_joined ? prices : closes
      const market = { low: kept.low.map(v => v * spec.hold), high: kept.high.map(v => v * spec.hold), last: closes.last.map(v => v * spec.hold) }
      const falls = reach(c.fall, c.fall, starts)
      for (let g = 0; g < n; g++) money.last[g] = c.equity[starts[g + 1] - 1]
      for (const panel of below) {
        if (panel.name === "equity") scaled(panel, ...bounds(panel, money, market))
        else if (panel.name === "fall") { const deep = Math.min(bounds(panel, falls)[0], -1e-4); Object.assign(panel, { isLog: false, low: 100 * deep, limit: 0, y: v => panel.top + panel.high * v / (100 * deep) }) }
        else if (panel.name === "held") {
          const begin = Math.max(place(c.fill_when, view.since) - 1, 0), inside = c.fill_held.subarray(begin, place(c.fill_when, view.until))
          scaled(panel, inside.reduce((a, b) => Math.min(a, b), 0), inside.reduce((a, b) => Math.max(a, b), 0), 0.04)
        }
        else scaled(panel, ...bounds(panel, ...panel.lines.map(each => lines.get(each))))
      }
      const ticks = dates(view.since, view.until, Math.max(3, Math.floor((right - left) / 92)))
      pen.fillStyle = colour("grid")
      for (const [ms] of ticks) pen.fillRect(Math.round(x(ms)), price.top, 1, panels[panels.length - 1].floor - price.top)
      panels.forEach(framed)
      let steps = []
      const [fills, many] = picked(price), isThinned = many > MARKED
      clipped(price, () => {
        if (isCandles) candled(price, from, to)
        const isFar = n < to - from // an average of fewer bars than a pixel holds says little: it steps back
        for (const each of price.lines) stroke(line(price, lines.get(each), ends, starts), each.ink, 1.5, [], isFar ? 0.5 : 1)
        if (!isCandles) banded(price, prices, closes, xs, starts)
        if (!isThinned) steps = stepped(price)
        traded(price, fills, isThinned)
        funded(price)
      })
      headed(price, [...price.lines.map(each => [each.label, each.ink]), ...steps])
      for (const panel of below) {
        clipped(panel, () => {
          for (const each of panel.lines) stroke(line(panel, lines.get(each), ends, starts), each.ink, 1.5)
          if (panel.name === "held") held(panel)
          if (panel.name === "equity") {
            const start = new Path2D(); start.moveTo(left, panel.y(spec.capital)); start.lineTo(right, panel.y(spec.capital))
            stroke(start, "dim", 1, [3, 4]); stroke(line(panel, market, ends, starts), "dim", 1.25); stroke(line(panel, money, ends, starts), "line", 1.75)
          }
          if (panel.name === "fall") {
            const path = new Path2D()
            path.moveTo(ends[0], panel.top)
            for (let g = 0; g < n; g++) path.lineTo(ends[g], panel.y(100 * falls.low[g]))
            path.lineTo(ends[n - 1], panel.top); path.closePath()
            pen.globalAlpha = 0.45; pen.fillStyle = colour("loss"); pen.fill(path); pen.globalAlpha = 1
          }
        })
        headed(panel, panel.name === "equity" ? [["equity", "line"], ["buy and hold", "dim"]] : panel.lines.map(each => [each.label, each.ink]))
      }
      panels.forEach(each => each.named())
      const foot = panels[panels.length - 1].floor + 16
      for (const [ms, text] of ticks) { const px = x(ms); if (px > left + 18 && px < right - 18) say(text, px, foot, "dim", "center") }
      const joined = Math.max(...Array.from({ length: n }, (_, g) => starts[g + 1] - starts[g]))
      const parts = [`${day(view.since)} – ${day(view.until - 1)}`, isCandles ? `candles of ${length(bar)}` : `lowest to highest in ${length(joined * bar)}`]
      if (many) parts.push(fills.length < many ? `${fills.length.toLocaleString("en-US")} of ${many.toLocaleString("en-US")} fills marked: zoom in for all` : `${many.toLocaleString("en-US")} fill${many === 1 ? "" : "s"}`)
      seen.textContent = parts.join(" · ")
      Object.assign(shown, { bars: to - from, groups: n, isCandles, lowest: prices.low, highest: prices.high, marked: drawn, fills: many, scales: Object.fromEntries(panels.map(each => [each.name, each.isLog])), steps: steps.map(([name]) => name) })
      if (pointer) pointed(from, to)
    }

    const row = (name, value) => `<tr><td>${name}</td><td>${value}</td></tr>`
    const trip_rows = i => {
      const k = c.fill_trip[i], reason = spec.reasons[c.fill_reason[i]] || "fill", side = c.trip_side[k] > 0 ? "long" : "short"
      const rows = [`<tr><th colspan="2">${reason} of trip ${c.trip[k]}, ${side}</th></tr>`, row("UTC", stamp(c.fill_when[i])), row(c.fill_side[i] > 0 ? "bought" : "sold", `${short(c.fill_qty[i])} at ${written(c.fill_price[i], spec.places)}`)]
      rows.push(row(entered(i) ? "fee" : "after fees", written(c.fill_pnl[i], 2, true)))
      return rows.concat(row(c.trip_ended[k] < 0 ? "trip so far" : "whole trip, after fees", written(c.trip_pnl[k], 2, true))).join("")
    }
    const bar_rows = i => {
      const rows = [`<tr><th colspan="2">${stamp(c.when[i])} UTC</th></tr>`, row("open, close", `${written(c.open[i], spec.places)}, ${written(c.close[i], spec.places)}`), row("low, high", `${written(c.low[i], spec.places)}, ${written(c.high[i], spec.places)}`)]
      for (const each of spec.lines) rows.push(row(each.label, Number.isFinite(c[each.high][i]) ? short(c[each.high][i]) : "–"))
      const k = place(c.fill_when, c.when[i] + bar) - 1
      if (k >= 0 && c.fill_held[k]) rows.push(row("position", short(c.fill_held[k])))
      rows.push(row("equity", written(c.equity[i], 2)), row("buy and hold", written(c.close[i] * spec.hold, 2)), row("drawdown", `${written(100 * c.fall[i], 2)} %`))
      let paid = 0, times = 0
      for (let p = place(c.paid_when, c.when[i]); p < c.paid_when.length && c.paid_when[p] < c.when[i] + bar; p++) { paid += c.paid_amount[p]; times++ }
      if (times) rows.push(row("funding", written(paid, 2, true)))
      return rows.join("")
    }
    const pointed = (from, to) => {
      const { px, py } = pointer
      if (px < left || px > right) { tip.hidden = true; return }
      let near = null, least = 144
      for (const [mx, my, i] of drawn) { const far = (mx - px) ** 2 + (my - py) ** 2; if (far < least) { least = far; near = i } }
      const i = clamp(place(c.when, ms_at(px) + 1) - 1, from, to - 1), at = near === null ? x(c.when[i] + bar / 2) : x(c.fill_when[near])
      pen.fillStyle = colour("dim"); pen.globalAlpha = 0.6; pen.fillRect(Math.round(at), panels[0].top, 1, panels[panels.length - 1].floor - panels[0].top); pen.globalAlpha = 1
      tip.innerHTML = `<table>${near === null ? bar_rows(i) : trip_rows(near)}</table>`
      tip.hidden = false
      const room = tip.offsetWidth + 16, isLeft = at + room > wide && at - room > 0
      tip.style.left = `${clamp(isLeft ? at - room : at + 16, 0, Math.max(wide - room + 16, 0))}px`
      tip.style.top = `${clamp(py - 30, 0, 400) + canvas.offsetTop}px`
    }

    let waiting = 0
    const later = () => { waiting = waiting || requestAnimationFrame(() => { waiting = 0; draw() }) }
    const look = (since, until) => {
      const span = clamp(until - since, Math.min(12 * bar, all.until - all.since), all.until - all.since)
      const begin = clamp(since + (until - since - span) / 2, all.since, all.until - span)
      view.since = begin; view.until = begin + span
      later()
    }
    const zoom = (times, at = (view.since + view.until) / 2) => look(at - (at - view.since) * times, at + (view.until - at) * times)
    const move = share => { const by = share * (view.until - view.since); look(view.since + by, view.until + by) }

    const touches = new Map(), spot = event => { const box = canvas.getBoundingClientRect(); return { px: event.clientX - box.left, py: event.clientY - box.top } }
    canvas.addEventListener("pointerdown", event => { touches.set(event.pointerId, spot(event)); canvas.setPointerCapture(event.pointerId) })
    canvas.addEventListener("pointermove", event => {
      const now = spot(event), before = touches.get(event.pointerId)
      pointer = now
      if (before && touches.size === 2) {
        const [other] = [...touches].filter(([id]) => id !== event.pointerId).map(([, each]) => each)
        const gap = p => Math.max(Math.abs(p.px - other.px), 12)
        zoom(gap(before) / gap(now), ms_at((now.px + other.px) / 2))
      } else if (before) {
        const by = ms_at(before.px) - ms_at(now.px)
        look(view.since + by, view.until + by)
      } else later()
      if (before) touches.set(event.pointerId, now)
    })
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, event => touches.delete(event.pointerId))
    canvas.addEventListener("pointerleave", () => { pointer = null; tip.hidden = true; later() })
    canvas.addEventListener("dblclick", event => zoom(0.25, ms_at(spot(event).px)))
    canvas.addEventListener("wheel", event => {
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) move(event.deltaX / 600)
      else if (event.ctrlKey || event.metaKey || document.activeElement === canvas) zoom(Math.exp(clamp(event.deltaY, -200, 200) / 300), ms_at(spot(event).px))
      else return
      event.preventDefault()
    }, { passive: false })
    const deeds = { in: () => zoom(0.5), out: () => zoom(2), all: () => look(all.since, all.until) }
    for (const button of host.querySelectorAll("button")) button.addEventListener("click", () => deeds[button.value]())
    const keys = { ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2), "+": deeds.in, "-": deeds.out, Home: deeds.all }
    canvas.addEventListener("keydown", event => { if (keys[event.key] && !event.ctrlKey && !event.metaKey) { keys[event.key](); event.preventDefault(); event.stopPropagation() } })

    host.classList.add("at-live")
    sized()
    new ResizeObserver(() => { if (Math.abs(host.clientWidth - wide) >= 1) sized() }).observe(host)
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later)
    new MutationObserver(later).observe(document.body, { attributes: true })
    host.chart = { spec, columns: c, shown, view, look, zoom }
  }

  for (const host of document.querySelectorAll(".at-chart:not([data-known])")) {
    host.dataset.known = ""
    alive(host).catch(error => { host.classList.remove("at-live"); console.error(error) }) // the still picture stays
  }
})()
