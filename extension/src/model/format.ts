/** Numbers as people read them: the same words as `nbgpu.formats`. */

/** `$0.41`, `$1,204.00`; below a cent two digits that count. Nothing is `$0`. */
export function dollars(amount: number | string): string {
  const value = Number(amount);
  if (!Number.isFinite(value)) {
    return String(amount);
  }
  const sign = value < 0 ? '-' : '';
  const size = Math.abs(value);
  if (size === 0) {
    return '$0';
  }
  if (size >= 0.0995) {
    const grouped = size.toLocaleString('en-US', { minimumFractionDigits: 2, maximumFractionDigits: 2 });
    return `${sign}$${grouped}`;
  }
  if (size < 0.000001) {
    return `less than ${sign}$0.000001`;
  }
  const digits = 1 - Math.floor(Math.log10(size));
  const text = size.toFixed(Math.max(2, digits));
  return `${sign}$${digits > 2 ? text.replace(/0+$/, '') : text}`;
}

export function perHour(rate: number | string): string {
  return `${dollars(rate)}/h`;
}

/** `0.4 s`, `21.4 s`, `2 min 5 s`, `2 h 10 min`, `3 d 4 h`. */
export function span(seconds: number): string {
  if (seconds < 0.1) {
    return `${Math.round(seconds * 1000)} ms`;
  }
  if (seconds < 59.95) {
    return `${seconds.toFixed(1).replace(/\.0$/, '')} s`;
  }
  const whole = Math.round(seconds);
  const units: [number, string, number, string][] = [
    [86400, 'd', 3600, 'h'],
    [3600, 'h', 60, 'min'],
    [60, 'min', 1, 's']
  ];
  for (const [size, name, below, small] of units) {
    if (whole >= size) {
      const rest = Math.floor((whole % size) / below);
      return `${Math.floor(whole / size)} ${name}${rest ? ` ${rest} ${small}` : ''}`;
    }
  }
  return `${whole} s`;
}

/** Bytes: `812 MB`, `1.2 GB`. */
export function size(bytes: number): string {
  let count = bytes;
  for (const unit of ['B', 'kB', 'MB', 'GB']) {
    if (count < 1000) {
      return `${count.toFixed(unit === 'B' || unit === 'kB' || count >= 100 ? 0 : 1)} ${unit}`;
    }
    count /= 1000;
  }
  return `${count.toFixed(1)} TB`;
}

/** Seconds as the magics read them: `45s`, `5m`, `1h`. */
export function duration(seconds: number): string {
  for (const [size, unit] of [[86400, 'd'], [3600, 'h'], [60, 'm']] as const) {
    if (seconds >= size && seconds % size === 0) {
      return `${seconds / size}${unit}`;
    }
  }
  return `${seconds}s`;
}

/** `30s`, `5m`, `1h30m`, or a bare number of seconds; null for anything else. */
export function seconds(text: string): number | null {
  const written = text.trim();
  if (/^\d+$/.test(written)) {
    return Number(written);
  }
  if (!/^(\d+[smhd])+$/.test(written)) {
    return null;
  }
  const units: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400 };
  return [...written.matchAll(/(\d+)([smhd])/g)].reduce((sum, [, n, unit]) => sum + Number(n) * (units[unit ?? ''] ?? 0), 0);
}

/** `820 ms`, `2.4 s`, `41 s`, `2 min 5 s`; `–` where there is none. */
export function latency(ms: number | null): string {
  if (ms === null) {
    return '–';
  }
  return ms < 1000 ? `${Math.round(ms)} ms` : ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : span(Math.round(ms / 1000));
}

/** `0/s`, `0.2/s`, `12/s`. */
export function perSecond(rate: number): string {
  const text = rate === 0 ? '0' : rate < 0.1 ? rate.toFixed(2) : rate < 10 ? rate.toFixed(1) : rate.toFixed(0);
  return `${text}/s`;
}

export function plural(count: number, noun: string): string {
  return `${count.toLocaleString('en-US')} ${noun}${count === 1 ? '' : 's'}`;
}

/** The time of day; with the date if it was not today. */
export function clock(atUs: number, now = Date.now()): string {
  const at = new Date(atUs / 1000);
  const time = at.toLocaleTimeString('en-GB');
  return at.toDateString() === new Date(now).toDateString()
    ? time
    : `${at.toLocaleDateString('en-CA')} ${time.slice(0, 5)}`;
}
