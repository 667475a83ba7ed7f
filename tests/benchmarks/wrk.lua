-- Arguments after `--`: the body, the key. Prints one line of JSON when done.

function init(args)
  wrk.method = 'POST'
  wrk.body = args[1]
  wrk.headers['content-type'] = 'application/json'
  wrk.headers['authorization'] = 'Bearer ' .. args[2]
end

function done(summary)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('{"requests":%d,"wall_us":%d,"errors":%d}\n', summary.requests, summary.duration, failed))
end
