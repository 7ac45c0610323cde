{{- /*
redis.manifests: Deployment, Service and NetworkPolicy of a Redis that keeps nothing on disk. Takes a dict:
  name                                  the name of the objects
  labels, matchLabels, podLabels        YAML text
  clients                               labels of the pods that may connect, each as YAML text
  podAnnotations                        a map
  secretName                            Secret with redis-password, and redis-<process>-password for each process
  script                                the shell script that starts it
  image                                 reference of the image
  imagePullSecrets                      a list
  podSecurityContext, securityContext   YAML text
  accountName                           its ServiceAccount; empty for the namespace's default
  scheduling                            fields of the pod's spec, YAML text
  values                                pull policy, maxmemory, resources
*/}}
{{- define "redis.manifests" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .name }}
  labels:
    {{- .labels | nindent 4 }}
spec:
  replicas: 1
  selector:
    matchLabels:
      {{- .matchLabels | nindent 6 }}
  # Never two at a time: each would accept the same pass.
  strategy:
    type: Recreate
  template:
    metadata:
      labels:
        {{- .podLabels | nindent 8 }}
      annotations:
        {{- toYaml .podAnnotations | nindent 8 }}
    spec:
      automountServiceAccountToken: false
      {{- with .accountName }}
      serviceAccountName: {{ . }}
      {{- end }}
      enableServiceLinks: false
      securityContext:
        {{- .podSecurityContext | nindent 8 }}
      {{- with .imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .scheduling }}
      {{- . | nindent 6 }}
      {{- end }}
      containers:
        - name: redis
          image: {{ .image | quote }}
          {{- with .values.image.pullPolicy }}
          imagePullPolicy: {{ . }}
          {{- end }}
          command:
            - sh
            - -c
            - |
              {{- .script | trim | nindent 14 }}
          env:
            - name: REDIS_PASSWORD
              valueFrom:
                secretKeyRef:
                  name: {{ .secretName }}
                  key: redis-password
            {{- range $process := tuple "verifier" "reconciler" "proxy" "receiver" }}
            - name: {{ upper $process }}_PASSWORD
              valueFrom:
                secretKeyRef:
                  name: {{ $.secretName }}
                  key: redis-{{ $process }}-password
                  # The operator's own Secret may have only the shared password.
                  optional: true
            {{- end }}
            - name: MAXMEMORY
              value: {{ .values.maxmemory | quote }}
          ports:
            - name: redis
              containerPort: 6379
              protocol: TCP
          # Redis listens when it is ready, within a second. A readiness probe would see no more; the verifier's asks Redis.
          startupProbe:
            tcpSocket:
              port: redis
            periodSeconds: 1
            timeoutSeconds: 3
            failureThreshold: 120
          livenessProbe:
            tcpSocket:
              port: redis
            periodSeconds: 10
            timeoutSeconds: 3
            failureThreshold: 6
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          securityContext:
            {{- .securityContext | nindent 12 }}
          volumeMounts:
            - name: tmp
              mountPath: /tmp
      volumes:
        - name: tmp
          emptyDir:
            sizeLimit: 16Mi
---
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  labels:
    {{- .labels | nindent 4 }}
spec:
  selector:
    {{- .matchLabels | nindent 4 }}
  ports:
    - name: redis
      port: 6379
      targetPort: redis
      protocol: TCP
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ .name }}
  labels:
    {{- .labels | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- .matchLabels | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - from:
        {{- range .clients }}
        - podSelector:
            matchLabels:
              {{- . | nindent 14 }}
        {{- end }}
      ports:
        - port: 6379
          protocol: TCP
  egress: []
{{- end }}
