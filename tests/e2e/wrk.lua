-- Prints wrk's summary as one line of JSON: {"requests":…,"failed":…,"seconds":…,"errors":{…}}.
-- Failed are connects, reads, writes, timeouts and answers other than 2xx and 3xx.
done = function(summary)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"failed":%d,"seconds":%.2f,"errors":{"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}}\n',
    summary.requests, e.connect + e.read + e.write + e.timeout + e.status, summary.duration / 1e6,
    e.connect, e.read, e.write, e.timeout, e.status))
end
