// binder-egress: sends each build request at once, with a promise of a pass, and shows the verifier's launch.js what
// the page reads of the answer. ES5 syntax and interfaces of 2015 only, so that no browser fails on it.
(function (page) {
  try {
    var original = page.fetch;
    var here = new URL(page.pageConfig.baseUrl, document.baseURI).href;
    var meta = document.querySelector("meta[name=binder-egress]");
    var base = new URL(meta ? meta.content : "egress/", here).href.replace(/\/?$/, "/");
    var ours = { base: base, launches: [] };
    var ignore = function () {};
    // A retry is the same launch, until launch.js removes it because its server is ready. Without an address, the launch waits for
    // its first request.
    var launchOf = function (address) {
      var launch = ours.launches.filter(function (one) {
        return address && (one.address || address) === address;
      })[0];
      if (!launch) {
        var bytes = [].map.call(page.crypto.getRandomValues(new Uint8Array(16)), function (byte) {
          return (byte + 256).toString(16).slice(1);
        });
        ours.launches.push(launch = { promise: "promise-" + bytes.join("") });
      }
      launch.address = address;
      return launch;
    };
    // launch.js sees each piece of the answer before the page does. The answer stays the browser's own.
    var watch = function (launch, answer, body) {
      // D-432
      var getReader = body.getReader;
      body.getReader = function () {
        var reader = getReader.apply(body, arguments), read = reader.read;
        reader.read = function () {
          var got = read.apply(reader, arguments);
          var show = function () { return ours.read ? ours.read(launch, answer, got) : got; };
          return got.then(show, show);
        };
        return reader;
      };
    };
    page.fetch = function fetch(input, options) {
      var args = [].slice.call(arguments), launch;
      try {
        var url = new URL(input.url || input, document.baseURI), asked = url.search;
        if (url.href.indexOf(here + "build/") === 0 && !/[?&](egress_token|build_only=true)\b/.test(asked)
            && /^get$/i.test((options && options.method) || input.method || "get")) {
          launch = launchOf(url.href);
          // D-430
          url.search = asked + (asked ? "&" : "?") + "egress_token=" + launch.promise;
          args[0] = input.url ? new Request(url.href, input) : url.href;
        }
      } catch (error) {}
      var answer = original.apply(this, args);
      try {
        if (launch) {
          launch.since = performance.now();
          launch.answer = answer;
          answer.then(function (response) { watch(launch, answer, response.body); }).then(null, ignore);
          if (ours.sent) ours.sent(launch);
        }
      } catch (error) {}
      return answer;
    };
    page.binderEgress = ours;
    // This page launches by itself, so the challenge is requested immediately.
    if (page.location.href.indexOf(here + "v2/") === 0) {
      launchOf();
      ours.challenge = original.call(page, base + "challenge?purpose=launch");
      // D-135
      ours.challenge.then(null, ignore);
    }
    var script = document.createElement("script");
    script.async = true;
    // BinderHub answers an unknown address with its page. Browsers run a module only if its content type is JavaScript.
    // D-222
    script.type = "module";
    // By default, browsers load async scripts after others.
    script.fetchPriority = "high";
    script.src = base + "launch.js";
    // It is blocked, or nothing leads to a verifier.
    // D-434
    script.onerror = function () {
      var line = document.createElement("p");
      line.textContent = "A part of this page did not load, so no server gets internet access through it.";
      line.style.cssText = "position:fixed;bottom:0;margin:0;padding:8px;background:#ff9";
      document.documentElement.appendChild(line);
    };
    document.head.appendChild(script);
  } catch (error) {}
})(window);
